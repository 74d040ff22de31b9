#!/usr/bin/env bash
# Run all checks: ruff, shellcheck, import layers, tests.
#   bash scripts/run_tests.sh [pytest arguments]
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

failed=()

# check NAME COMMAND...: continues after a failure, so that one run reports all of them.
check() {
    stage "$1"
    "${@:2}" || failed+=("$1")
}

# tool NAME ...: runs a tool of the environment, which is not on PATH unless it has been activated.
tool() {
    "$(dirname "$PYTHON")/$1" "${@:2}"
}

shell_scripts() {
    if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
        git ls-files '*.sh' .ci/run
    else
        find scripts test tools .ci -name '*.sh' -o -path '.ci/run'
    fi
}

check_shell() {
    local scripts
    mapfile -t scripts < <(shell_scripts)
    tool shellcheck "${scripts[@]}"
}

# One per core, at most eight; each may need 2 GB.
test_processes() {
    local cores
    # nproc would answer with OMP_NUM_THREADS.
    cores=$(env -u OMP_NUM_THREADS nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
    echo $((cores < 8 ? cores : 8))
}

# The tests of the web demo drive a browser; without it they are skipped, and pytest says so.
ensure_browser() {
    export CHROMIUM=${CHROMIUM:-/usr/bin/chromium-headless-shell}
    [[ ! -x $CHROMIUM && $(id -u) == 0 ]] && command -v apt-get >/dev/null || return 0
    echo "installing chromium-headless-shell"
    local install=(timeout 300 apt-get install -qq -y --no-install-recommends chromium-headless-shell)
    { "${install[@]}" || { timeout 120 apt-get update -qq && "${install[@]}"; }; } >/dev/null 2>&1 ||
        echo "it cannot be installed; the tests that need a browser will be skipped"
}

set_up dev
ensure_browser
check "ruff" tool ruff check .
check "shellcheck" check_shell
check "formatting" tool ruff format --check .
check "import layers" tool lint-imports
check "types" tool mypy
# One process per core, each with one thread: two threads of OpenMP on a busy machine wait for each other.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# Those that run OpenVINO have processes of their own: with OpenVINO and nncf in it, a process that also runs other
# tests ends in a segmentation fault some tests later (openvino 2026.4.1, nncf 3.4.0; docs/log.md).
openvino=(tests/unit/deploy/openvino tests/unit/deploy/test_targets.py)
pytest=("$PYTHON" -m pytest -n "${TEST_PROCESSES:-$(test_processes)}" --dist worksteal -r fEs --durations=25)
check "tests" "${pytest[@]}" tests "${openvino[@]/#/--ignore=}" "$@"
if (($# == 0)); then check "tests with OpenVINO" "${pytest[@]}" "${openvino[@]}"; fi

if ((${#failed[@]})); then
    stage "FAILED: $(printf '%s; ' "${failed[@]}")"
    exit 1
fi
stage "all passed"
