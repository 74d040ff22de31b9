"""One of several gloo ranks: steps under DDP of a head with BatchNorm per level. Run by run_script.

Prints whether gradients are the mean of those that each rank's batch gives in one process, whether each rank's running
statistics are those of its own batches, and whether weights are the same on all ranks after an update.
"""

import copy
import os

import mmcv_overrides

mmcv_overrides.activate()

import torch
import torch.distributed as dist

from mmcv_overrides.parallel import DeviceDistributedDataParallel
from tests.support.level_norms import scattered
from tests.support.steps import batch, sgd, small_model


def gradients(model, run, data):
    losses = run(**data, mode="loss")
    sum(value.sum() for name, value in losses.items() if "loss" in name).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def step(way: str) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    plain = small_model("fcos-bn")
    scattered(plain.bbox_head)
    plain.bbox_head.merge_levels = way == "canvas"
    model = copy.deepcopy(plain)
    ddp = DeviceDistributedDataParallel(model)
    own = plain.data_preprocessor(batch(rank), True)
    found = gradients(model, ddp, own)
    alone = gradients(plain, plain, own)  # its losses are normalised over the ranks too
    for value in alone.values():
        dist.all_reduce(value)
    mean = all(torch.allclose(found[name], value / world, rtol=1e-4, atol=1e-6) for name, value in alone.items())
    statistics = all(torch.equal(value, plain.get_buffer(name)) for name, value in model.named_buffers())
    ddp.train_step(batch(10 + rank), sgd(model))
    weights = on_both_ranks(torch.cat([p.detach().flatten() for p in model.parameters()]))
    running = on_both_ranks(model.bbox_head.cls_convs[0].norm[0].running_mean)
    line = f"rank {rank} {way}: {mean} {statistics} {torch.equal(*weights)} {torch.equal(*running)}\n"
    os.write(1, line.encode())  # one system call: lines of two ranks don't mix


def on_both_ranks(value: torch.Tensor) -> list[torch.Tensor]:
    found = [torch.empty_like(value) for _ in range(2)]
    dist.all_gather(found, value)
    return found


def main() -> None:
    dist.init_process_group("gloo")
    for way in ("one by one", "canvas"):
        step(way)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # as the trainer ends: tearing down gloo's threads with the interpreter hangs or aborts now and then


if __name__ == "__main__":
    main()
