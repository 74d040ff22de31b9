"""One of several gloo ranks: a DDP step through torch.compile, compared with the eager step. Run by run_script."""

import copy
import os
import sys

import mmcv_overrides

mmcv_overrides.activate()

import torch
import torch.distributed as dist

from fcos_train.engine import compiled
from mmcv_overrides.parallel import DeviceDistributedDataParallel
from tests.support.steps import batch, sgd, small_model


def trained(compile_it: bool, plain: torch.nn.Module, lines: list[str]) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of two steps and the weights after them."""
    model = copy.deepcopy(plain)
    ddp = DeviceDistributedDataParallel(model)
    wrapper = sgd(model)
    if compile_it:
        compiled.compile_losses(model, lines.append, "aot_eager")
    data = [batch(10 * step + dist.get_rank(), objects=(3, dist.get_rank())) for step in range(2)]
    losses = [ddp.train_step(item, wrapper)["loss"].item() for item in data]
    return losses, {name: p.detach().clone() for name, p in model.named_parameters()}


def main() -> None:
    dist.init_process_group("gloo")
    plain, lines = small_model("fcos-gn"), []
    (losses, weights), (expected, reference) = trained(True, plain, lines), trained(False, plain, lines)
    same = all(torch.allclose(weights[name], value, rtol=1e-4, atol=1e-6) for name, value in reference.items())
    moved = any(
        not torch.equal(value, p) for (_, p), value in zip(plain.named_parameters(), reference.values(), strict=True)
    )
    line = f"rank {dist.get_rank()} {losses} {expected} {same} {moved} {len(lines)}\n"
    os.write(1, line.encode())  # one system call: lines of two ranks don't mix
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()


if __name__ == "__main__":
    main()
