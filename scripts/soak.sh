#!/usr/bin/env bash
# Train through random faults: kills, signals, damaged and deleted files, a full disk. Each round disturbs the same short
# training once; then it is resumed to its end and compared with an undisturbed run, bit by bit.
#   bash scripts/soak.sh [--rounds 150] [--seed 0] [--out benchmarks/results]
# A round takes some seconds: trainings are forks of one interpreter that has imported everything.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

ensure_python
ensure_installed dev
PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" exec "$PYTHON" scripts/soak.py "$@"
