#!/usr/bin/env bash
# Train on eight devices for the whole schedule; print speed, accuracy and time.
#   bash test/train_full_8p.sh --data_path=/path/to/coco [--config=... --device=auto|cpu|cuda|npu ...]
#   All flags: --help
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

opt[nproc]=8
default_batch=2
launch "$@"
