#!/usr/bin/env bash
# Install what the tests need, then run them:
#   bash tools/test.sh [--stack onedl|openmmlab] [--install-only] [arguments of pytest]
set -euo pipefail
cd "$(dirname "$0")/.."
stack=onedl install_only=false arguments=()
while (($#)); do
    case $1 in
        --stack) stack=${2:?--stack takes onedl or openmmlab} && shift ;;
        --install-only) install_only=true ;;
        *) arguments+=("$1") ;;
    esac
    shift
done
[[ -e requirements/$stack.txt ]] || { echo "--stack $stack is unknown: onedl or openmmlab" >&2; exit 2; }

source tools/install.sh
install "$stack"
if $install_only; then exit; fi

export BEIT_MM_STACK=$stack
[[ $stack == onedl ]] || export PYTHONPATH=$PWD/.overlay/$stack${PYTHONPATH:+:$PYTHONPATH}
exec .venv/bin/python -m pytest "${arguments[@]}"
