#!/usr/bin/env bash
# Install a wheel into a new environment outside the repository, and train (in one process and in two), evaluate, predict,
# draw, report and export with it.
#   bash scripts/try_wheel.sh FILE.whl          (a minute of training; TRY_WHEEL_PYTHON selects the Python)
set -euo pipefail
wheel=$(realpath "${1:?give a wheel}")
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${TRY_WHEEL_PYTHON:-python3.11}" -m venv "$folder/env"
pip=("$folder/env/bin/pip" install -qq --disable-pip-version-check)
torch=$(sed -n 's/^torch==\([^ +;]*\).*/\1/p' "$root/requirements/tested.txt")
"${pip[@]}" "torch==$torch+cpu" 2>/dev/null || "${pip[@]}" "torch==$torch"
"${pip[@]}" -c "$root/requirements/tested.txt" "${wheel}[export]"
cd "$folder" # nothing of the repository can be imported from here
export PATH="$folder/env/bin:$PATH"
fcos-train doctor --fix
fcos-train make-shapes shapes --train 16 --val 8
fcos-train train fcos/fcos_tiny_shapes --data-path shapes --max-iters 8 --device cpu --work-dir run
fcos-train train fcos/fcos_tiny_shapes --data-path shapes --max-iters 4 --device cpu --devices 2 --work-dir two
fcos-train report run two --compare
fcos-train predict run/latest.pth shapes/val2017 --out predicted --device cpu
test -s predicted/predictions.json
fcos-train eval - run/latest.pth --data-path shapes --device cpu
fcos-train demo run/latest.pth --img shapes/val2017 --show-dir pictures --device cpu
fcos-train export run/latest.pth --allow-untrained --output-file model.onnx
test -s model.onnx
echo "the wheel works: $(basename "$wheel")"
