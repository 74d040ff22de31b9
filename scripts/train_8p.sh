#!/usr/bin/env bash
# Train on eight devices, as test/train_full_8p.sh does, with the output on the terminal and no results harvested.
#   bash scripts/train_8p.sh [--data_path=/path/to/coco ...]   (without it: the data of the config; --help: all flags)
set -euo pipefail
# shellcheck source=../test/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/../test/lib.sh"

opt[nproc]=8
default_batch=2
launch_plain "$@"
