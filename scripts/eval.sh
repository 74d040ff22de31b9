#!/usr/bin/env bash
# Evaluate a checkpoint (default: that of the newest training) with the config.py beside it.
#   bash scripts/eval.sh [CHECKPOINT or work dir] [--data_path=... --config=... --device=... --batch_size=... -- ...]
set -euo pipefail
# shellcheck source=../test/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../test/lib.sh"

unset opt
declare -A opt=([data_path]="" [config]="" [device]=auto [batch_size]="" [work_dir]="")

pick_python
parse_flags "$@"
check_numbers
resolve_data
if ((${#positional[@]} > 1)); then die "one checkpoint at a time, not ${positional[*]}"; fi
if ((${#positional[@]} == 1)); then
    checkpoint=$(from_caller "${positional[0]}")
    if [[ ! -e $checkpoint ]]; then checkpoint=$root/${positional[0]}; fi
    if [[ -d $checkpoint ]]; then checkpoint=$checkpoint/latest.pth; fi
    [[ -f $checkpoint ]] || die "no checkpoint ${positional[0]} ($checkpoint)"
else
    # Speed runs are one level deeper and do not count.
    checkpoint=$(cd "$root" && "$PYTHON" -m fcos_train.cli.newest "$root/work_dirs") ||
        die "no work_dirs/*/latest.pth yet; train first (bash test/train_full_1p.sh --data_path=...) or name a checkpoint"
fi
beside=$(dirname "$checkpoint")/config.py
if [[ -z ${opt[config]} && -f $beside ]]; then config=$beside; else resolve_config; fi
echo "checkpoint: $checkpoint"
echo "config: $config"

cd "$root"
npu_environment
check_install
command=("$PYTHON" -m fcos_train eval "$config" "$checkpoint" --device "${opt[device]}")
add --data-path "$data_path"
add --batch-size "${opt[batch_size]}"
if [[ -n ${opt[work_dir]} ]]; then command+=(--work-dir "$(from_caller "${opt[work_dir]}")"); fi
command+=(${extra[@]+"${extra[@]}"})
exec "${command[@]}"
