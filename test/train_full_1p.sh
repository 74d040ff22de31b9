#!/usr/bin/env bash
# Train on one device for the whole schedule; print speed, accuracy and time.
#   bash test/train_full_1p.sh --data_path=/path/to/coco [--config=... --device=auto|cpu|cuda|npu ...]
#   All flags: --help
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

default_batch=16
launch "$@"
