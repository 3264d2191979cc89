#!/usr/bin/env bash
# Build the site of docs/ in build/site; a warning is an error:
#   bash tools/docs.sh [arguments of mkdocs build]
# It needs only Python: the API reference is read from the source files, which are not imported.
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/install.sh
install docs
export NO_MKDOCS_2_WARNING=1  # mkdocs-material warns about a later version
exec .docs/bin/python -m mkdocs build --strict "$@"  # with --quiet, --strict would see no warnings
