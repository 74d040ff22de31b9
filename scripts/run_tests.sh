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
        find scripts test .ci -name '*.sh' -o -path '.ci/run'
    fi
}

check_shell() {
    local scripts
    mapfile -t scripts < <(shell_scripts)
    tool shellcheck "${scripts[@]}"
}

stage "Python environment"
ensure_python
stage "install"
ensure_installed dev
check "ruff" tool ruff check .
check "shellcheck" check_shell
check "import layers" tool lint-imports
check "tests" "$PYTHON" -m pytest tests -rs --durations=25 "$@"

if ((${#failed[@]})); then
    stage "FAILED: $(printf '%s; ' "${failed[@]}")"
    exit 1
fi
stage "all passed"
