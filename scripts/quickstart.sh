#!/usr/bin/env bash
# Set up everything on a fresh machine and try it: environment, installation, data, training, evaluation, picture.
#   bash scripts/quickstart.sh        (QUICKSTART_ITERS=N: train for N iterations only)
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

config=configs/fcos/fcos_r18_fpn_shapes.py
data=data/shapes
work_dir=work_dirs/quickstart

stage "Python environment"
ensure_python
stage "install"
ensure_installed

stage "data: generated shapes in COCO layout, $data"
if [[ -f $data/annotations/instances_val2017.json ]]; then
    echo "already there"
else
    "$PYTHON" -m fcos_train make-shapes "$data" --train 400 --val 80
fi

stage "training: $config"
"$PYTHON" -m fcos_train train "$config" --data-path "$data" --work-dir "$work_dir" --overwrite --seed 0 \
    ${QUICKSTART_ITERS:+--max-iters "$QUICKSTART_ITERS"}

stage "evaluation"
bash scripts/eval.sh "$work_dir/latest.pth"

stage "picture"
pictures=("$data"/val2017/*)
"$PYTHON" demo.py "$work_dir/latest.pth" --img "${pictures[0]}" --show-dir "$work_dir/pictures"
drawn=$(basename "${pictures[0]%.*}")_pred.jpg

stage "done"
if [[ -z ${VIRTUAL_ENV:-}${CONDA_PREFIX:-} ]]; then activate="  source .venv/bin/activate"$'\n'; else activate=""; fi
cat <<END
checkpoint   $work_dir/latest.pth
log          $work_dir/*.log (also .log.json, and tb/ for TensorBoard)
picture      $work_dir/pictures/$drawn
What to do next:
${activate}  bash test/train_full_1p.sh --data_path=/path/to/your/data --config=configs/fcos/fcos_r18_fpn_shapes.py
  bash scripts/eval.sh                       # evaluate the newest training
  python demo.py $work_dir/latest.pth --img /path/to/image_or_folder
END
