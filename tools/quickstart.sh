#!/usr/bin/env bash
# Install into .venv, run all of BEiT in miniature on drawn images, and print where the report is:
#   bash tools/quickstart.sh [arguments of recipe.py, e.g. --seeds 3]
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
if [[ ! -e $root/setup.py ]]; then  # installed: work in the current folder, with its Python
    exec "${PYTHON:-python}" "$root/tools/recipe.py" run "$root/configs/quickstart/recipe.py" "$@"
fi
cd "$root"
source tools/install.sh
install onedl
exec .venv/bin/python tools/recipe.py run configs/quickstart/recipe.py "$@"
