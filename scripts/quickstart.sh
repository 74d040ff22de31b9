#!/usr/bin/env bash
# Set up everything on a fresh machine and try it: environment, installation, data, training, evaluation, picture.
#   bash scripts/quickstart.sh        (QUICKSTART_ITERS=N: train for N iterations only)
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

set_up ""
exec "$PYTHON" scripts/quickstart.py $((SECONDS - started))
