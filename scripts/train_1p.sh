#!/usr/bin/env bash
# Train on one device like test/train_full_1p.sh, but print the log to the terminal and write no case log.
#   bash scripts/train_1p.sh [--data_path=/path/to/coco ...]   (without it: the data of the config; --help: all flags)
set -euo pipefail
# shellcheck source=../test/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../test/lib.sh"

default_batch=16
launch_plain "$@"
