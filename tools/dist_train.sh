#!/usr/bin/env bash
# Train on several devices, with the arguments and the environment of mmdet 2.x's script of this name.
#   [NNODES=2 NODE_RANK=0 ADDR=10.0.0.1 PORT=29500] bash tools/dist_train.sh CONFIG DEVICES [fcos-train flags ...]
# test/train_full_8p.sh does the same and also writes the results.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
if (($# < 2)) || [[ ! $2 =~ ^[1-9][0-9]*$ ]]; then
    echo "error: give the config and the number of devices: bash tools/dist_train.sh CONFIG DEVICES [...]" >&2
    exit 2
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
exec "${PYTHON:-python3}" -m fcos_train.launch.agent --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --nproc_per_node="$2" --master_addr="${ADDR:-127.0.0.1}" --master_port="${PORT:-29500}" \
    -m fcos_train train "$1" --launcher pytorch "${@:3}"
