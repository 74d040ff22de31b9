#!/usr/bin/env bash
# Run the tests on the real torch_npu, without an NPU (tests/npu_front_end/README.md). Not part of run_tests.sh.
# Downloads torch_npu's wheel (44 MB) once, into ${FCOS_CACHE:-~/.cache/fcos_train}, and does not install it.
#   bash scripts/run_front_end_tests.sh [pytest arguments]
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

set_up dev
stage "torch_npu and stubs of the libraries it needs"
"$PYTHON" tests/npu_front_end/build.py
stage "tests"
"$PYTHON" -m pytest tests/npu_front_end -m front_end -rs "$@"
stage "all passed"
