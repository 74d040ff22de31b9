#!/usr/bin/env bash
# Install Rockchip's compiler and simulator (rknn-toolkit2) from PyPI, into an environment of its own.
#   bash scripts/setup_rknn_toolchain.sh [FOLDER]
# FOLDER: default $FCOS_RKNN_TOOLCHAIN, else ~/.cache/fcos-train/rknn. The toolkit is proprietary, takes 1.5 GB with the
# CPU build of torch, and is needed for --target rknn only. PYTHON311=/path/to/python names a Python 3.11.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

folder=${1:-${FCOS_RKNN_TOOLCHAIN:-$HOME/.cache/fcos-train/rknn}}

# is_311 COMMAND: it runs, is Python 3.11 and can make environments.
is_311() {
    "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1
}

[[ $(uname -s) == Linux && $(uname -m) == x86_64 ]] ||
    die "the simulator of rknn-toolkit2 is for Linux x86-64, this is $(uname -s) $(uname -m)"
stage "Python 3.11"
found=""
for candidate in ${PYTHON311:-python3.11 python3 "$root/.venv/bin/python" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.11.*/bin/python}; do
    if is_311 "$candidate"; then
        found=$candidate
        break
    fi
done
[[ -n $found ]] || die "the toolkit was tried with Python 3.11, and ${PYTHON311:-no command on PATH} is one: install it \
(pyenv install 3.11, or uv python install 3.11), or give PYTHON311=/path/to/python3.11"
if [[ ! -x $folder/bin/python ]]; then
    echo "$folder, with $found"
    "$found" -m venv "$folder"
elif ! is_311 "$folder/bin/python"; then
    die "$folder holds an environment with another Python than 3.11; give another folder, or remove it"
fi
PYTHON=$folder/bin/python

stage "what the toolkit imports"
install_torch
pip_install numpy==1.26.4 onnx==1.18.0 onnxruntime==1.23.2 protobuf==4.25.4 'setuptools<81' \
    opencv-python-headless==4.11.0.86 psutil ruamel.yaml scipy tqdm fast-histogram
has_torch >/dev/null || pip_install torch==2.13.0
stage "rknn-toolkit2"
# --no-deps: its own requirements ask for torch <= 2.4 and opencv-python, which needs libGL.
pip_install --no-deps rknn-toolkit2==2.5.0

stage "check"
"$PYTHON" -I -W ignore -c 'import rknn.api; from importlib.metadata import version; print("rknn-toolkit2", version("rknn-toolkit2"))'
if [[ $folder != "$HOME/.cache/fcos-train/rknn" ]]; then
    echo "use it with: export FCOS_RKNN_TOOLCHAIN=$folder"
fi
