#!/usr/bin/env bash
# Measure the speed of training on one device: one epoch, no evaluation.
#   bash test/train_performance_1p.sh --data_path=/path/to/coco [--max_iters=N --batch_size=N --config=... ...]
#   All flags: --help
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

default_batch=16
default_epochs=1
speed_run=1
default_pretrained=auto # speed does not depend on the weights
train_defaults=(--no-validate)
launch "$@"
