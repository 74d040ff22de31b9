"""One of two gloo ranks: weights that change type or are unfrozen after DDP was built. Run by run_script."""

import os

import mmcv_overrides

mmcv_overrides.activate()

import torch
import torch.distributed as dist

from mmcv_overrides.optimizer import StepOptimWrapper
from mmcv_overrides.parallel import DeviceDistributedDataParallel
from tests.support.toy_runs import Toy


def points(step: int, rank: int) -> torch.Tensor:
    return torch.randn(4, 4, generator=torch.Generator().manual_seed(10 * step + rank))


def trained(level: dict, ranks: list[int], parallel: bool) -> torch.Tensor:
    """All weights after three steps with frozen layers and three with none."""
    model = Toy(frozen="backbone.one")
    runs = DeviceDistributedDataParallel(model) if parallel else model
    wrapper = StepOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=True), **level)
    wrapper.lower(runs)
    for step in range(6):
        if step == 3:
            model.requires_grad_()
        runs.train_step({"x": torch.cat([points(step, rank) for rank in ranks])}, wrapper)
    return torch.cat([owner.detach().flatten() for owner in wrapper.masters or wrapper.model_params])


def main() -> None:
    dist.init_process_group("gloo")
    for name, level in (("O0", {}), ("O2", dict(opt_level="O2", amp_dtype="bf16"))):
        mine = trained(level, [dist.get_rank()], parallel=True)
        both = [torch.empty_like(mine) for _ in range(2)]
        dist.all_gather(both, mine)
        alone = trained(level, [0, 1], parallel=False)
        start = torch.cat([p.detach().flatten() for p in Toy().parameters()])
        away, moved = (mine - alone).norm().item(), (mine - start)[:40].norm().item()
        line = f"rank {dist.get_rank()} {name} same {torch.equal(*both)} away {away:.2e} unfrozen moved {moved:.2e}\n"
        os.write(1, line.encode())  # one system call: lines of two ranks don't mix
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
