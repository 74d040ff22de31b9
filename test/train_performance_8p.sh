#!/usr/bin/env bash
# Measure the speed of training on eight devices: one epoch, no evaluation.
#   bash test/train_performance_8p.sh --data_path=/path/to/coco [--nproc=N --max_iters=N --batch_size=N ...]
#   All flags: --help
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

opt[nproc]=8
default_batch=2
default_epochs=1
speed_run=1
default_pretrained=auto # speed does not depend on the weights
train_defaults=(--no-validate)
launch "$@"
