#!/usr/bin/env bash
# Train on eight devices like test/train_full_8p.sh, but print the log to the terminal and write no case log.
#   bash scripts/train_8p.sh [--data_path=/path/to/coco ...]   (without it: the data of the config; --help: all flags)
set -euo pipefail
# shellcheck source=../test/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../test/lib.sh"

opt[nproc]=8
default_batch=2
launch_plain "$@"
