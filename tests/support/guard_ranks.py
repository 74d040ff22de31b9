"""One of two gloo ranks: three steps of one layer; rank 1 has an infinite loss in the second.

Run by run_script of tests.support.commands.
"""

import json
import os

import mmcv_overrides

mmcv_overrides.activate()

import torch
import torch.distributed as dist
from torch import nn

from mmcv_overrides.optimizer import StepOptimWrapper
from mmcv_overrides.parallel import DeviceDistributedDataParallel


def main() -> None:
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(0)
    net = DeviceDistributedDataParallel(nn.Linear(2, 1))
    wrapper = StepOptimWrapper(torch.optim.SGD(net.parameters(), lr=0.1))
    bad, weights = [], []
    for step in range(3):
        loss = net(torch.ones(1, 2) * (rank + 1)).sum()
        if rank == 1 and step == 1:
            loss = loss + torch.tensor(float("inf"))  # its gradient is finite all the same
        wrapper.update_params(loss)
        bad.append(wrapper.last_bad.item())
        weights.append(net.module.weight.detach().flatten().tolist())
    line = json.dumps({"rank": rank, "bad": bad, "weights": weights}) + "\n"
    os.write(1, line.encode())  # one system call: lines of two ranks don't mix
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
