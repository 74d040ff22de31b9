"""One rank with a bad loss and finite gradients: both ranks skip that step."""

import socket

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def work(rank: int, port: int, out) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    import mmcv_overrides

    mmcv_overrides.activate()
    from mmcv_overrides.optimizer import StepOptimWrapper
    from mmcv_overrides.parallel import DeviceDistributedDataParallel

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
        weights.append(net.module.weight.detach().clone())
    out.put((rank, bad, torch.cat(weights).tolist()))
    dist.barrier()
    dist.destroy_process_group()


def test_all_ranks_decide_alike():
    context = mp.get_context("spawn")
    out = context.SimpleQueue()
    processes = mp.spawn(work, (free_port(), out), nprocs=2, join=False)
    results = {rank: (bad, weights) for rank, bad, weights in (out.get() for _ in range(2))}
    while not processes.join():
        pass
    assert results[0] == results[1]
    bad, weights = results[0]
    assert bad == [0.0, 1.0, 0.0]
    first, second, third = (torch.tensor(w) for w in weights)
    assert torch.equal(first, second)
    # gradient of both ranks averaged: (1 + 2) / 2 per weight, times lr 0.1
    torch.testing.assert_close(second - third, torch.full((2,), 0.15))
