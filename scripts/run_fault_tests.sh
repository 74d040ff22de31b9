#!/usr/bin/env bash
# Run every fault of tests/faults, the slow ones too: signals, kills, full disks, network namespaces, strace. What needs
# root, namespaces or strace is skipped, and said, where they are absent.
#   bash scripts/run_fault_tests.sh [pytest arguments]
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

set_up dev
stage "faults"
FCOS_FAULTS=all "$PYTHON" -m pytest tests/faults -rs "$@"
stage "all passed"
