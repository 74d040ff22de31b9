#!/usr/bin/env bash
# A job beside run_tests.sh: the product on the real torch_npu, without an NPU (tests/npu_front_end/README.md).
# Downloads torch_npu's wheel (44 MB) once, into ${FCOS_CACHE:-~/.cache/fcos_train}; installs it nowhere.
#   bash scripts/run_front_end_tests.sh [pytest arguments]
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

stage "Python environment"
ensure_python
stage "install"
ensure_installed dev
stage "torch_npu and what it needs to be imported"
"$PYTHON" tests/npu_front_end/build.py
stage "tests"
"$PYTHON" -m pytest tests/npu_front_end -m front_end -rs "$@"
stage "all passed"
