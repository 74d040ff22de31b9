#!/usr/bin/env bash
# Install the vendor's compiler for RDK X5 and X3 models (hb_mapper) from PyPI, into an environment of its own.
#   bash scripts/setup_rdk_toolchain.sh [FOLDER]
# FOLDER: default $FCOS_RDK_TOOLCHAIN, else ~/.cache/fcos-train/rdk. The compiler is proprietary ("All Rights Reserved",
# see its metadata), takes 2.7 GB, and is needed for --target rdk-x5 and rdk-x3 only. Its wheels exist for Python 3.10
# on Linux x86-64. PYTHON310=/path/to/python names a Python 3.10.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

folder=${1:-${FCOS_RDK_TOOLCHAIN:-$HOME/.cache/fcos-train/rdk}}

# is_310 COMMAND: it runs and is Python 3.10; pyenv's shim python3.10 exists but may fail.
is_310() {
    [[ $("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) == 3.10 ]]
}

# Prints a Python 3.10, or fails.
find_python() {
    local candidate
    if [[ -n ${PYTHON310:-} ]]; then
        is_310 "$PYTHON310" || die "PYTHON310=$PYTHON310 does not run as Python 3.10"
        echo "$PYTHON310"
        return
    fi
    for candidate in python3.10 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.10.*/bin/python "$(uv python find 3.10 2>/dev/null || true)"; do
        if [[ -n $candidate ]] && is_310 "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    die "the compiler needs Python 3.10: install it (pyenv install 3.10, or uv python install 3.10), or give PYTHON310=/path/to/python3.10"
}

[[ $(uname -s) == Linux && $(uname -m) == x86_64 ]] || die "the compiler's wheels are for Linux x86-64, this is $(uname -s) $(uname -m)"
stage "Python 3.10"
python=$(find_python)
echo "$python"
if [[ ! -x $folder/bin/python ]]; then
    "$python" -m venv "$folder"
elif ! is_310 "$folder/bin/python"; then
    die "$folder holds an environment with another Python than 3.10; give another folder, or remove it"
fi

stage "what the compiler imports"
"$folder/bin/pip" install --quiet numpy==1.23.0 onnx==1.15.0 onnxruntime==1.16.2 protobuf==3.20.3 \
    opencv-python-headless==4.6.0.66 scipy==1.13.1 scikit-image==0.19.0 torch==1.12.1 \
    click pyyaml schema easydict pathos absl-py graphviz jinja2 tqdm paramiko pycocotools psutil Pillow pydot six \
    tabulate msgpack-numpy multiprocess matplotlib
stage "compiler"
# --no-deps: its own requirements ask for opencv-python, which needs libGL, and for the newest torch with CUDA.
"$folder/bin/pip" install --quiet --no-deps rdkx5-yolo-mapper==1.0.0 dgdk==1.0.0 dg_nn_toolkit==1.0.0

stage "check"
PATH=$folder/bin:$PATH hb_mapper --version
command -v dot >/dev/null || echo "note: hb_perf draws the model only where Graphviz is installed (apt install graphviz)"
if [[ $folder != "$HOME/.cache/fcos-train/rdk" ]]; then
    echo "use it with: export FCOS_RDK_TOOLCHAIN=$folder"
fi
