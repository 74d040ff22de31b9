"""Processes and ranks: start method, process group and DistributedDataParallel on gloo, nccl and hccl, CPU included."""

from __future__ import annotations

import datetime
import inspect
import multiprocessing
import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.logging import print_log
from mmengine.model.wrappers import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.utils.dl_utils import set_multi_processing as _upstream_multi_processing
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmcv_overrides import rendezvous, stalls
from mmcv_overrides.device import current
from mmcv_overrides.errors import UserError, system_error
from mmcv_overrides.network import choose_interface
from mmcv_overrides.rendezvous import meet
from mmcv_overrides.seams import Override
from mmcv_overrides.stalls import note_step, waiting_for_master

T = TypeVar("T")
TIMEOUT_S = 600  # of collectives; the environment variable FCOS_DIST_TIMEOUT overrides it
LONGEST_S = 365 * 86400  # torch keeps deadlines in nanoseconds, which end after 292 years


def init_dist_pytorch(backend: str, init_backend: str = "torch", **kwargs: Any) -> None:
    """Join the process group that torchrun describes in the environment.

    The device decides the backend (gloo, nccl, hccl) unless ``FCOS_DIST_BACKEND`` names one; ``backend`` is ignored,
    because most configs have ``backend="nccl"``, with which a CPU run could not start.

    Raises:
        UserError: torchrun's environment is missing or has impossible values, this node has more ranks than devices, or
            the ranks cannot reach each other.
    """
    if init_backend != "torch":
        raise UserError(f"init_backend={init_backend!r} is not supported; use 'torch'")
    missing = [
        key for key in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if key not in os.environ
    ]
    if missing:
        raise UserError(f"launcher 'pytorch' needs {', '.join(missing)} in the environment; start with torchrun")
    accelerator = current()
    _check_environment()
    local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if accelerator.module is not None and local_size > accelerator.count():
        raise UserError(
            f"{local_size} processes on this node but {accelerator.count()} {accelerator.name} devices; "
            "start as many processes as there are devices"
        )
    accelerator.set_device(local_rank)
    # With INFO the error about parameters without gradients names them.
    os.environ.setdefault("TORCH_DISTRIBUTED_DEBUG", "INFO")
    kwargs.setdefault("timeout", timeout_of_group())
    backend = os.environ.get("FCOS_DIST_BACKEND") or accelerator.backend
    interface = choose_interface(backend)
    if not {"init_method", "store"} & kwargs.keys():
        store, rank, world = meet(float(os.environ.get("FCOS_RENDEZVOUS_TIMEOUT", rendezvous.TIMEOUT_S)))
        store.set_timeout(kwargs["timeout"])
        kwargs |= dict(store=store, rank=rank, world_size=world)
    try:
        dist.init_process_group(backend=backend, **kwargs)
    except RuntimeError as error:
        if "connectFullMesh" not in str(error):
            raise
        raise UserError(
            f"rank {os.environ['RANK']} cannot reach the other ranks ({str(error).strip().splitlines()[-1][:200]}). "
            f"gloo uses the interface {interface or os.environ.get('GLOO_SOCKET_IFNAME') or 'of the host name'}; "
            "give the address that the other machines reach with --local_addr, or the interface with --ifname "
            "(FCOS_LOCAL_ADDR, GLOO_SOCKET_IFNAME)"
        ) from error
    if dist.get_world_size() > 1:
        found = dist.distributed_c10d._get_default_store()
        seconds, where = kwargs["timeout"].total_seconds(), os.environ["MASTER_ADDR"]
        stalls.watch(stalls.Watch(found, dist.get_rank(), dist.get_world_size(), seconds, where))


def timeout_of_group() -> datetime.timedelta:
    """How long a rank waits for another one."""
    return datetime.timedelta(seconds=float(os.environ.get("FCOS_DIST_TIMEOUT", TIMEOUT_S)))


def host_group() -> dist.ProcessGroup | None:
    """A gloo group of its own over all ranks, for notes that no accelerator is asked for; None of a single rank.

    To be called on all ranks. It is left with ``dist.destroy_process_group``.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    if "WORLD_SIZE" in os.environ:
        choose_interface("gloo")
    return dist.new_group(backend="gloo", timeout=timeout_of_group())


def leave_process_group() -> None:
    """End the process group, together: no rank closes connections that another one still reads."""
    dist.barrier()
    stalls.watch(None)
    rendezvous.forget_job()
    dist.destroy_process_group()


def _check_environment() -> None:
    """Check the values that torch would meet one by one, with tracebacks.

    Raises:
        UserError: with all faults.
    """
    faults = []
    for name, least, most in (
        ("RANK", 0, None), ("LOCAL_RANK", 0, None), ("WORLD_SIZE", 1, None), ("LOCAL_WORLD_SIZE", 1, None),
        ("MASTER_PORT", 1, 65535),
    ):  # fmt: skip
        text = os.environ.get(name)
        if text is None:
            continue
        if not text.strip().isdecimal() or int(text) < least or (most is not None and int(text) > most):
            span = f"of at least {least}" if most is None else f"from {least} to {most}"
            faults.append(f"{name}={text!r}: must be a whole number {span}")
    if not faults and int(os.environ["RANK"]) >= int(os.environ["WORLD_SIZE"]):
        faults.append(f"RANK={os.environ['RANK']}: must be below WORLD_SIZE, {os.environ['WORLD_SIZE']}")
    for name in ("FCOS_DIST_TIMEOUT", "FCOS_RENDEZVOUS_TIMEOUT"):
        timeout = os.environ.get(name, str(TIMEOUT_S))
        try:
            sound = 0 < float(timeout) <= LONGEST_S
        except ValueError:
            sound = False
        if not sound:
            faults.append(f"{name}={timeout!r}: must be seconds, above 0 and at most {LONGEST_S} (a year)")
    for part in filter(None, os.environ.get("FCOS_DIST_BACKEND", "").split(",")):  # as in cpu:gloo,npu:hccl
        backend = part.rpartition(":")[2]
        if backend not in dist.Backend.backend_list:
            known = ", ".join(name for name in dist.Backend.backend_list if name != "undefined")
            faults.append(f"FCOS_DIST_BACKEND={part!r}: torch knows {known}")
        elif not dist.is_backend_available(backend):
            faults.append(f"FCOS_DIST_BACKEND={part!r}: this torch was built without it")
    if faults:
        raise UserError("; ".join(faults))


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
    """mmengine's wrapper for any device, and for types and memory formats that change later.

    Upstream always passes ``device_ids=[LOCAL_RANK]``, which is an error for a CPU module and wrong if ``NPUID``
    offsets the device.

    DDP lays out its buckets for the parameters at construction. Types (O2) and memory formats change later, and
    gradients of weights that a hook unfreezes would never be reduced, so that the ranks would diverge. Therefore a step
    that finds the parameters changed rebuilds the buckets.
    """

    def __init__(self, module: nn.Module, detect_anomalous_params: bool = False, **kwargs: Any) -> None:
        device = next(module.parameters()).device
        kwargs["device_ids"] = None if device.type == "cpu" else [device.index]
        kwargs.setdefault("gradient_as_bucket_view", True)
        if "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters:  # since torch 2.13
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
            state = self.__getstate__()  # leaves out the reducer and its buckets, __setstate__ builds them
            del self.reducer, self.logger
            self.__setstate__(state)

    def train_step(self, data: Any, optim_wrapper: OptimWrapper) -> dict[str, torch.Tensor]:
        """One step of mmengine's wrapper; notes how far this rank is (:mod:`mmcv_overrides.stalls`)."""
        self._follow_layout()
        self._steps += 1
        note_step(self._steps, 1)
        log_vars = super().train_step(data, optim_wrapper)
        note_step(self._steps + 1, 0)
        return log_vars

    def _run_forward(self, data: Any, mode: str) -> Any:
        results = super()._run_forward(data, mode)
        if mode == "loss":
            note_step(self._steps, 2)
        return results


def on_master(action: Callable[[], T]) -> T:
    """Run ``action`` on rank 0 and return its result, which must be picklable, on every rank.

    No rank waits for one that failed: an error of rank 0 is raised on all of them.

    Raises:
        UserError: of the class and with the text that rank 0 raised, on every rank; also for a file of a full disk, of
            a folder that is gone, and other errors of the operating system.
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
        except OSError as error:
            failure = system_error(error)
            outcome = [(failure, None)]
        except Exception as error:
            failure = error
            outcome = [(RuntimeError(f"rank 0 failed: {type(error).__name__}: {error}"), None)]
    with nullcontext() if is_main_process() else waiting_for_master():
        broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    fault, value = outcome[0]
    if fault is not None:
        raise fault
    return value


def all_reduce_max(flag: torch.Tensor) -> torch.Tensor:
    """Elementwise maximum of ``flag`` over all ranks, in place, without a read-back."""
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
        "upstream calls torch.cuda.set_device on a CPU and hides a failed import of torch_npu; backend by device",
    ),
    Override(
        "MODEL_WRAPPERS:MMDistributedDataParallel",
        DeviceDistributedDataParallel,
        "no device_ids on a CPU, otherwise the module's own device",
    ),
    Override(
        "mmengine.runner.runner:MMDistributedDataParallel",
        DeviceDistributedDataParallel,
        "the runner uses this class directly if the config has no wrapper",
    ),
]
