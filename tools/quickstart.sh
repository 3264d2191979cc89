#!/usr/bin/env bash
# The whole of BEiT in miniature on an embedded data set; installs itself into .venv first. Ends with where the report is:
#   bash tools/quickstart.sh [arguments of recipe.py, e.g. --seeds 3]
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/install.sh
install onedl
exec .venv/bin/python tools/recipe.py run configs/quickstart/recipe.py "$@"
