#!/usr/bin/env bash
# Train in a Slurm job: one task for each device. Options of sbatch come before the script, those of the trainer after it.
#   sbatch --nodes=2 --ntasks-per-node=8 --gres=gpu:8 scripts/slurm_train.sh CONFIG --data-path /data/coco [...]
#SBATCH --job-name=fcos-train
#SBATCH --cpus-per-task=4
#SBATCH --output=slurm-%j.log
set -euo pipefail

if (($# == 0)); then
    echo "error: give the config: sbatch [...] scripts/slurm_train.sh CONFIG --data-path DIR [...]" >&2
    exit 2
fi
if [[ -z ${SLURM_JOB_ID:-} ]]; then
    echo "error: this is not a Slurm job; submit it with sbatch (on one machine: fcos-train train CONFIG --devices N)" >&2
    exit 2
fi
# srun takes the number of nodes and tasks of the job, but not its --cpus-per-task
exec srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-4}" --kill-on-bad-exit=1 \
    "${PYTHON:-python3}" -m fcos_train train "$@" --launcher slurm
