#!/usr/bin/env bash
# Build the documentation site into build/site; any warning is an error.
#   bash scripts/build_docs.sh          (pip install '.[docs]' first)
#   PYTHON=...  selects the Python that has mkdocs
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
python=${PYTHON:-python}
"$python" scripts/docs_pages.py build/docs
NO_MKDOCS_2_WARNING=1 "$python" -m mkdocs build --strict # not --quiet: warnings would not count
echo "site in $root/build/site/index.html"
