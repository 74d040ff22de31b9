#!/usr/bin/env bash
# Measure the speed of training on several machines; start it on each of them: one epoch, no evaluation.
#   bash test/train_performance_multinodes.sh --data_path=/path/to/coco --nnodes=2 --node_rank=0 --master_addr=10.0.0.1
# --nproc is per machine; --local_addr (this machine, for HCCL) is found from the route to the master when not given;
# --ifname=eth0 names the network interface for gloo, NCCL and HCCL; --master_port is 23333 when not given.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

opt+=([nnodes]=1 [node_rank]=0 [local_addr]="" [master_addr]=127.0.0.1 [master_port]="" [ifname]="")
opt[nproc]=8
opt[batch_size]=2
default_epochs=1
speed_run=1
train_defaults=(--no-validate --pretrained auto)  # speed does not depend on the weights
launch "$@"
