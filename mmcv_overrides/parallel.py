"""Processes and ranks: start method, process group and DistributedDataParallel on gloo, nccl and hccl, CPU included."""

from __future__ import annotations

import datetime
import inspect
import multiprocessing
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.logging import print_log
from mmengine.model.wrappers import MMDistributedDataParallel
from mmengine.utils.dl_utils import set_multi_processing as _upstream_multi_processing
from torch.nn.parallel import DistributedDataParallel

from mmcv_overrides.device import current
from mmcv_overrides.errors import UserError
from mmcv_overrides.seams import Override

T = TypeVar("T")
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
    missing = [
        key for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if key not in os.environ
    ]
    if missing:
        raise UserError(f"launcher 'pytorch' needs {', '.join(missing)} in the environment; start with torchrun")
    accelerator = current()
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if accelerator.module is not None and local_size > accelerator.count():
        raise UserError(
            f"{local_size} processes on this node but {accelerator.count()} {accelerator.name} devices; "
            "start as many processes as there are devices"
        )
    accelerator.set_device(local_rank)
    # With INFO the error about parameters without gradient names them.
    os.environ.setdefault("TORCH_DISTRIBUTED_DEBUG", "INFO")
    timeout = float(os.environ.get("FCOS_DIST_TIMEOUT", TIMEOUT_S))
    kwargs.setdefault("timeout", datetime.timedelta(seconds=timeout))
    dist.init_process_group(backend=os.environ.get("FCOS_DIST_BACKEND", accelerator.backend), **kwargs)


def set_multi_processing(mp_start_method: str = "fork", opencv_num_threads: int = 0, distributed: bool = False) -> None:
    """As upstream's, but ``fork``, its default, becomes ``spawn`` where processes cannot be forked safely.

    Windows has no fork. On macOS system frameworks crash in forked processes, for which reason Python spawns there too.
    """
    if mp_start_method == "fork" and (
        sys.platform == "darwin" or "fork" not in multiprocessing.get_all_start_methods()
    ):
        print_log(f"env_cfg.mp_cfg.mp_start_method fork -> spawn: not safe or not available on {sys.platform}")
        mp_start_method = "spawn"
    _upstream_multi_processing(mp_start_method, opencv_num_threads, distributed)


class DeviceDistributedDataParallel(MMDistributedDataParallel):
    """mmengine's wrapper on whatever device the module lives on, and with whatever types and layouts its weights have.

    Upstream always passes ``device_ids=[LOCAL_RANK]``, which a CPU module refuses and which is wrong when the card
    is offset by ``NPUID``.

    DDP lays its buckets out by the parameters that it finds when it is made. Types (O2) and memory formats change after that,
    and weights that a hook unfreezes would never be reduced: every rank would train its own. So a step that finds other
    parameters than the one before has the buckets laid out anew.
    """

    def __init__(self, module, detect_anomalous_params: bool = False, **kwargs):
        device = next(module.parameters()).device
        kwargs["device_ids"] = None if device.type == "cpu" else [device.index]
        kwargs.setdefault("gradient_as_bucket_view", True)
        if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters:  # its name since torch 2.13
            kwargs["forward_sync_buffers"] = kwargs.pop("broadcast_buffers", True)
        super().__init__(module, detect_anomalous_params=detect_anomalous_params, **kwargs)
        self._steps = 0
        self._all_params = list(module.parameters())
        self._laid_out = self._layout()

    def _layout(self) -> list[tuple]:
        return [(p.requires_grad, p.dtype, p.stride()) for p in self._all_params]

    def _follow_layout(self) -> None:
        layout = self._layout()
        if layout != self._laid_out:
            self._laid_out = layout
            state = self.__getstate__()  # pickling leaves the reducer and its buckets out, unpickling builds them
            del self.reducer, self.logger
            self.__setstate__(state)

    def train_step(self, data, optim_wrapper):
        self._follow_layout()
        self._steps += 1
        _note(self._steps, 1)
        log_vars = super().train_step(data, optim_wrapper)
        _note(self._steps + 1, 0)
        return log_vars

    def _run_forward(self, data, mode: str):
        results = super()._run_forward(data, mode)
        if mode == "loss":
            _note(self._steps, 2)
        return results


_NOTE = "mmcv_overrides/progress/"
_PHASES = ("before the forward pass", "in the forward pass", "in the backward pass")


def _note(step: int, phase: int) -> None:
    """Leave in the process group's store how far this rank is."""
    dist.distributed_c10d._get_default_store().set(f"{_NOTE}{dist.get_rank()}", f"{step} {phase}")


def slowest_ranks() -> str:
    """Text that names the ranks which are behind, from what they noted; empty when none is."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return ""
    store = dist.distributed_c10d._get_default_store()
    keys = [f"{_NOTE}{rank}" for rank in range(dist.get_world_size())]
    try:
        noted = [tuple(map(int, store.get(key).split())) if store.check([key]) else (0, 0) for key in keys]
    except RuntimeError:  # the store's own process may be the one that died
        return "an unknown rank (the store of the process group no longer answers)"
    ahead = max(noted)
    behind = [f"rank {rank} ({_place(*at)})" for rank, at in enumerate(noted) if at < ahead]
    return f"{', '.join(behind)}; the others are at {_place(*ahead)}" if behind else ""


def _place(step: int, phase: int) -> str:
    return f"step {step} {_PHASES[phase]}"


def on_master(action: Callable[[], T]) -> T:
    """Run ``action`` on rank 0 and return its result, which must be picklable, on every rank.

    No rank waits for one that failed: an error of rank 0 is raised on all of them.

    Raises:
        UserError: of the class and with the text that rank 0 raised, on every rank.
        RuntimeError: on the other ranks, if rank 0 raised anything else (rank 0 raises it unchanged).
    """
    outcome: list[Any] = [None]
    failure: Exception | None = None
    if is_main_process():
        try:
            outcome = [(None, action())]
        except UserError as error:
            failure = error
            outcome = [(error, None)]
        except Exception as error:
            failure = error
            outcome = [(RuntimeError(f"rank 0 failed: {type(error).__name__}: {error}"), None)]
    broadcast_object_list(outcome)
    error, value = outcome[0]
    if failure is not None:
        raise failure
    if error is not None:
        raise error
    return value


def all_reduce_max(flag: torch.Tensor) -> torch.Tensor:
    """Largest value over all ranks, on the device, without reading it back."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return flag


OVERRIDES = [
    Override(
        "mmengine.runner.runner:set_multi_processing",
        set_multi_processing,
        "upstream forks loader workers on macOS too, where system frameworks crash in them",
    ),
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
