#!/usr/bin/env bash
# Build the site of docs/ into build/site, where any warning is an error: bash tools/docs.sh [arguments of mkdocs build]
# It needs Python alone: the API reference is read from the sources, without importing them.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/install.sh
install docs
export NO_MKDOCS_2_WARNING=1  # of mkdocs-material, about a later version
exec .docs/bin/python -m mkdocs build --strict "$@"  # --quiet would hide warnings from --strict too
