# The Python environment and its installs; sourced by quickstart.sh and run_tests.sh.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
torch_tested=2.13.0
started=$SECONDS

stage() {
    printf '== [%4d s] %s\n' $((SECONDS - started)) "$1"
}

die() {
    echo "error: $1" >&2
    exit 1
}

# usable_python COMMAND: a supported version that can make a virtual environment.
usable_python() {
    "$1" -c 'import sys, ensurepip, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

# Sets PYTHON: the active environment's, else that of .venv, which is made when absent.
ensure_python() {
    if [[ -n ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} ]]; then
        PYTHON=$(command -v python)
        echo "the active environment: $PYTHON"
    elif [[ -x $root/.venv/bin/python ]]; then
        PYTHON=$root/.venv/bin/python
        echo ".venv is there"
    else
        local candidate found=""
        for candidate in ${PYTHON:-} python3.11 python3.12 python3.10 python3; do
            if usable_python "$candidate"; then
                found=$candidate
                break
            fi
        done
        [[ -n $found ]] || die "no Python 3.10, 3.11 or 3.12 with venv here (Debian, Ubuntu: apt install python3-venv); PYTHON=/path/to/python names one"
        echo "making .venv with $("$found" --version)"
        "$found" -m venv "$root/.venv"
        PYTHON=$root/.venv/bin/python
    fi
    "$PYTHON" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' ||
        die "$("$PYTHON" --version) is not supported; use Python 3.10, 3.11 or 3.12"
    export PYTHON
}

# Errors are shown, the wall of notices is not.
pip_install() {
    "$PYTHON" -m pip install -qq --disable-pip-version-check "$@"
}

has_torch() {
    "$PYTHON" - <<'PY'
import sys
from importlib.metadata import PackageNotFoundError, version

try:
    found = version("torch")
except PackageNotFoundError:
    sys.exit(1)
if not (2, 4) <= tuple(int(x) for x in found.split("+")[0].split(".")[:2]) < (2, 14):  # as in pyproject.toml
    sys.exit(1)
print(f"torch {found} is there and stays")
PY
}

# torch first: without an accelerator its CPU build, which is some gigabytes smaller, where an index has it.
install_torch() {
    has_torch && return
    if command -v npu-smi >/dev/null; then return; fi # the [npu] extra brings torch and torch_npu as a pair
    if ! command -v nvidia-smi >/dev/null; then
        echo "torch $torch_tested for CPU"
        pip_install "torch==$torch_tested+cpu" 2>/dev/null && return
        echo "no CPU-only wheel of torch on your package index; taking its default, which may bring CUDA libraries"
        echo "(to avoid them, install torch by the CPU command of pytorch.org/get-started and run this again)"
    fi
    pip_install "torch==$torch_tested"
}

# With the tested versions, except torch's: the one that is there stays. They are of Python 3.11; others have other wheels.
install_project() {
    local project=$root${1:+[$1]} constraints
    if [[ $("$PYTHON" --version) != "Python 3.11."* ]]; then
        pip_install -e "$project"
        return
    fi
    constraints=$(mktemp)
    grep -v '^torch==' "$root/requirements/tested.txt" >"$constraints"
    pip_install -c "$constraints" -e "$project"
    rm -f "$constraints"
}

# ensure_installed [EXTRAS]: the project (in place) and its dependencies; skipped when nothing changed since.
ensure_installed() {
    local extras=${1:-} stamp wanted
    if command -v npu-smi >/dev/null; then extras=${extras:+$extras,}npu; fi
    stamp=$("$PYTHON" -c 'import sys; print(sys.prefix)')/.fcos-train-installed-${extras:-base}
    wanted="$root $({ cat "$root"/pyproject.toml "$root"/setup.py "$root"/requirements/tested.txt 2>/dev/null || true; } | cksum)"
    if [[ -f $stamp && $(<"$stamp") == "$wanted" ]] &&
        "$PYTHON" -c 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ("torch", "mmengine", "mmdet"))))'; then
        echo "nothing to do"
        return
    fi
    install_torch
    install_project "$extras"
    "$PYTHON" -m fcos_train doctor --fix
    echo "$wanted" 2>/dev/null >"$stamp" || true # an environment that is not ours to write into
}
