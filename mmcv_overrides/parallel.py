"""Process group and DistributedDataParallel for gloo, nccl and hccl, the CPU included."""

from __future__ import annotations

import datetime
import os

import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.model.wrappers import MMDistributedDataParallel
from mmengine.registry import HOOKS

from .device import current
from .errors import UserError
from .seams import Override

TIMEOUT_S = 600  # FCOS_DIST_TIMEOUT overrides it


def init_dist_pytorch(backend, init_backend="torch", **kwargs) -> None:
    """Join the process group that torchrun describes in the environment.

    The backend follows the device (gloo, nccl, hccl) unless ``FCOS_DIST_BACKEND`` says otherwise: configs carry
    ``backend="nccl"`` by habit, and with it a CPU run could not start.

    Raises:
        UserError: the environment of torchrun is missing, or there are more ranks on this node than devices.
    """
    if init_backend != "torch":
        raise UserError(f"init_backend={init_backend!r} is not supported; use 'torch'")
    missing = [key for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if key not in os.environ]
    if missing:
        raise UserError(f"--launcher pytorch needs {', '.join(missing)} in the environment; start with torchrun")
    accelerator = current()
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if accelerator.module is not None and local_size > accelerator.count():
        raise UserError(
            f"{local_size} processes on this node but {accelerator.count()} {accelerator.name} devices; "
            "start as many processes as there are devices (--nproc)"
        )
    accelerator.set_device(local_rank)
    # With INFO the error about parameters without gradient names them.
    os.environ.setdefault("TORCH_DISTRIBUTED_DEBUG", "INFO")
    timeout = float(os.environ.get("FCOS_DIST_TIMEOUT", TIMEOUT_S))
    kwargs.setdefault("timeout", datetime.timedelta(seconds=timeout))
    dist.init_process_group(backend=os.environ.get("FCOS_DIST_BACKEND", accelerator.backend), **kwargs)


class DeviceDistributedDataParallel(MMDistributedDataParallel):
    """mmengine's wrapper on whatever device the module lives on.

    Upstream always passes ``device_ids=[LOCAL_RANK]``, which a CPU module refuses and which is wrong when the card
    is offset by ``NPUID``.
    """

    def __init__(self, module, detect_anomalous_params: bool = False, **kwargs):
        device = next(module.parameters()).device
        kwargs["device_ids"] = None if device.type == "cpu" else [device.index]
        kwargs.setdefault("gradient_as_bucket_view", True)
        super().__init__(module, detect_anomalous_params=detect_anomalous_params, **kwargs)


@HOOKS.register_module()
class RankWatchHook(Hook):
    """Each rank notes its iteration in the process group's store; when a collective fails, the stragglers are named."""

    priority = "VERY_HIGH"
    PREFIX = "fcos_train/iteration/"

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        if dist.is_initialized():
            store = dist.distributed_c10d._get_default_store()
            store.set(f"{self.PREFIX}{dist.get_rank()}", str(runner.iter))


def slowest_ranks() -> str:
    """Text that names the ranks which are behind, from what :class:`RankWatchHook` noted; empty when unknown."""
    if not dist.is_initialized():
        return ""
    store = dist.distributed_c10d._get_default_store()
    keys = [f"{RankWatchHook.PREFIX}{rank}" for rank in range(dist.get_world_size())]
    try:
        noted = [int(store.get(key)) if store.check([key]) else -1 for key in keys]
    except RuntimeError:  # the store lives in rank 0, which may be the one that died
        return "rank 0 (its key-value store no longer answers)"
    if min(noted) == max(noted):
        return ""
    behind = [f"rank {rank} at iteration {it}" for rank, it in enumerate(noted) if it < max(noted)]
    return f"{', '.join(behind)}; the others reached iteration {max(noted)}"


def all_reduce_max(flag: torch.Tensor) -> torch.Tensor:
    """Largest value over all ranks, on the device, without reading it back."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return flag


OVERRIDES = [
    Override(
        "mmengine.dist.utils:_init_dist_pytorch",
        init_dist_pytorch,
        "upstream calls torch.cuda.set_device on a CPU, and hides a broken torch_npu; the backend follows the device",
    ),
    Override(
        "MODEL_WRAPPERS:MMDistributedDataParallel",
        DeviceDistributedDataParallel,
        "no device_ids on a CPU; the module's own card elsewhere",
    ),
    Override(
        "mmengine.runner.runner:MMDistributedDataParallel",
        DeviceDistributedDataParallel,
        "the runner names the class itself when the config has no wrapper",
    ),
]
