# The Python environment and what is installed in it; sourced by quickstart.sh and run_tests.sh.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
started=$SECONDS

stage() {
    printf '== [%4d s] %s\n' $((SECONDS - started)) "$1"
}

die() {
    echo "error: $1" >&2
    exit 1
}

# supported_pythons: the versions that pyproject.toml allows, newest first: "3.13 3.12 3.11".
supported_pythons() {
    local low high minor
    read -r low high < <(sed -n 's/^requires-python = ">=3\.\([0-9]*\)\(,<3\.\([0-9]*\)\)\{0,1\}".*/\1 \3/p' "$root/pyproject.toml")
    for ((minor = ${high:-15} - 1; minor >= low; minor--)); do printf '3.%d ' "$minor"; done
}

# is_supported COMMAND: its version is one of supported_pythons.
is_supported() {
    local version
    version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || return 1
    [[ " $(supported_pythons)" == *" $version "* ]]
}

# Sets PYTHON: the active environment's; else that of .venv, which is made with the newest supported Python when absent.
ensure_python() {
    local versions
    versions=$(supported_pythons)
    versions=${versions% }
    if [[ -n ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} ]]; then
        PYTHON=$(command -v python)
        echo "using the active environment: $PYTHON"
    elif [[ -x $root/.venv/bin/python ]]; then
        PYTHON=$root/.venv/bin/python
        echo "using .venv"
    else
        make_environment
    fi
    is_supported "$PYTHON" || die "$("$PYTHON" --version) is not supported; use one of Python ${versions// /, }"
    export PYTHON
}

make_environment() {
    local candidate found=""
    for candidate in ${PYTHON:-} $(supported_pythons | sed 's/3\./python3./g') python3; do
        if is_supported "$candidate" && "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
            found=$candidate
            break
        fi
    done
    [[ -n $found ]] || die "found no Python with the venv module among ${versions// /, }.\
 On Debian and Ubuntu: apt install python3-venv. PYTHON=/path/to/python selects one"
    echo "creating .venv with $("$found" --version)"
    "$found" -m venv "$root/.venv"
    PYTHON=$root/.venv/bin/python
    pip_install --upgrade pip || true # a newer pip takes half of the processor time; without one the old pip does it
}

# Prints errors only. Python compiles the modules that are imported; to compile all of them takes half of the time.
pip_install() {
    "$PYTHON" -m pip install -qq --no-compile --disable-pip-version-check "$@"
}

# has_torch: a version that pyproject.toml allows is installed.
has_torch() {
    "$PYTHON" - "$root/pyproject.toml" <<'PY'
import re
import sys
from importlib.metadata import PackageNotFoundError, version


def numbers(text):
    return tuple(int(part) for part in re.findall(r"\d+", text.split("+")[0])[:3])


try:
    found = version("torch")
except PackageNotFoundError:
    sys.exit(1)
low, high = re.search(r'"torch>=([\d.]+),<([\d.]+)"', open(sys.argv[1]).read()).groups()
if not numbers(low) <= numbers(found) < numbers(high):
    sys.exit(1)
print(f"keeping torch {found}, which is installed")
PY
}

# Installs torch before everything else: on a machine without an accelerator the CPU build, which is several gigabytes
# smaller, if a package index has it.
install_torch() {
    local tested
    has_torch && return
    if command -v npu-smi >/dev/null; then return; fi # the extra [npu] installs the matching torch and torch_npu
    tested=$(sed -n 's/^torch==\([^ +;]*\).*/\1/p' "$root/requirements/tested.txt")
    if ! command -v nvidia-smi >/dev/null; then
        echo "installing torch $tested for CPU"
        pip_install "torch==$tested+cpu" 2>/dev/null && return
        echo "your package index has no CPU-only build of torch; installing the default build, which may include CUDA"
        echo "(to avoid that, install torch with the CPU command from pytorch.org/get-started and run this script again)"
    fi
    pip_install "torch==$tested"
}

# Pins the tested versions, except torch's: an installed one is kept. The pins are those of Python 3.11.
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

# ensure_installed [EXTRAS]: installs the project (editable) and its dependencies, unless nothing has changed since.
ensure_installed() {
    local extras=${1:-} stamp wanted
    if command -v npu-smi >/dev/null; then extras=${extras:+$extras,}npu; fi
    stamp=$("$PYTHON" -c 'import sys; print(sys.prefix)')/.fcos-train-installed-${extras:-base}
    wanted="$root $({ cat "$root"/pyproject.toml "$root"/setup.py "$root"/requirements/tested.txt 2>/dev/null || true; } | cksum)"
    if [[ -f $stamp && $(<"$stamp") == "$wanted" ]] &&
        "$PYTHON" -c 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ("torch", "mmengine", "mmdet"))))'; then
        echo "already installed"
        return
    fi
    install_torch
    install_project "$extras"
    "$PYTHON" -m fcos_train doctor --fix
    echo "$wanted" 2>/dev/null >"$stamp" || true # the environment may not be writable
}

# set_up [EXTRAS]: the environment and what is installed in it, each as a stage.
set_up() {
    stage "Python environment"
    ensure_python
    stage "install"
    ensure_installed "$@"
}
