#!/usr/bin/env bash
# Install what the tests need, then run them:
#   bash tools/test.sh [--stack onedl|openmmlab|detection] [--install-only] [arguments of pytest]
# The stack detection adds MMDetection to onedl. It is a stack of its own, since mmseg imports
# MMDetection wherever it is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
stack=onedl install_only=false arguments=()
while (($#)); do
    case $1 in
        --stack) stack=${2:?--stack takes onedl, openmmlab or detection} && shift ;;
        --install-only) install_only=true ;;
        *) arguments+=("$1") ;;
    esac
    shift
done
if [[ ! -e requirements/$stack.txt ]]; then
    echo "--stack $stack is unknown: expected onedl, openmmlab or detection" >&2
    exit 2
fi

source tools/install.sh
install "$stack"
if $install_only; then exit; fi

export BEIT_MM_STACK=$stack
[[ $stack == onedl ]] || export PYTHONPATH=$PWD/.overlay/$stack${PYTHONPATH:+:$PYTHONPATH}
exec .venv/bin/python -m pytest "${arguments[@]}"
