#!/usr/bin/env bash
# Measure the speed of training on several machines: one epoch, no evaluation. To be started on each machine.
#   bash test/train_performance_multinodes.sh --data_path=/path/to/coco --nnodes=2 --node_rank=0 --master_addr=10.0.0.1
# --nproc is per machine. --local_addr is this machine's address for gloo, NCCL and HCCL (default: from the route to the
# master); --ifname=eth0 names the network interface instead. The default of --master_port is 23333. Before the training
# the machines compare software, config, data and flags; they wait --rendezvous_timeout (10m) for each other.
set -euo pipefail
# shellcheck source=lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

opt+=([nnodes]=1 [node_rank]=0 [local_addr]="" [master_addr]=127.0.0.1 [master_port]="" [ifname]="" [rendezvous_timeout]="")
opt[nproc]=8
opt[batch_size]=2
default_epochs=1
speed_run=1
default_pretrained=auto # speed does not depend on the weights
train_defaults=(--no-validate)
launch "$@"
