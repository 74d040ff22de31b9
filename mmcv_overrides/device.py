"""One record per kind of device (cpu, cuda, npu) and the choice between them."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from mmcv_overrides.errors import UserError
from mmcv_overrides.seams import Override


@dataclass(frozen=True)
class Accelerator:
    """What differs between kinds of devices.

    Attributes:
        name: ``cpu``, ``cuda`` or ``npu``; also the ``torch.device`` type.
        backend: the torch.distributed backend (gloo, nccl, hccl).
        half_dtype: the 16-bit type that suits this device.
        half_reason: why.
    """

    name: str
    backend: str
    half_dtype: torch.dtype
    half_reason: str

    @property
    def module(self) -> ModuleType | None:
        """``torch.cuda`` or ``torch.npu``; None on a CPU."""
        return None if self.name == "cpu" else getattr(torch, self.name)

    def count(self) -> int:
        """Number of devices; 0 on a CPU, where ranks are processes and their number is not limited."""
        return 0 if self.module is None else self.module.device_count()

    def set_device(self, local_rank: int) -> torch.device:
        """Select and return the device of this rank; the environment variable ``NPUID`` is added to its index."""
        if self.module is None:
            return torch.device("cpu")
        offset = int(os.environ.get("NPUID", 0))
        index = (local_rank + offset) % max(self.count(), 1)
        self.module.set_device(index)
        if self.name == "npu":
            # After the device is set: earlier it would create a context on device 0 in every process.
            self.module.set_compile_mode(jit_compile=False)
        return torch.device(self.name, index)

    def synchronize(self) -> None:
        """Wait for everything launched on the device."""
        if self.module is not None:
            self.module.synchronize()

    def title(self) -> str:
        """Name of the device; on a CPU that of the processor."""
        if self.module is not None:
            return self.module.get_device_name()
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.is_file() else []
        names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
        return next(names, platform.processor() or platform.machine())

    def speed_fault(self) -> str | None:
        """Why a speed measured on this device means nothing; None if it means something."""
        return simulated(self.title()) if self.name == "npu" else None

    def memory_mb(self) -> int:
        """Peak memory of tensors on the device, MiB; 0 on a CPU."""
        return 0 if self.module is None else int(self.module.max_memory_allocated() / 2**20)


def cores() -> int:
    """Number of processor cores that this process may use; all of the machine where the system does not tell."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


ACCELERATORS = {
    "cpu": Accelerator("cpu", "gloo", torch.bfloat16, "fp16 convolution on a CPU is about ten times slower"),
    "cuda": Accelerator("cuda", "nccl", torch.float16, "tensor cores run fp16 on every generation"),
    "npu": Accelerator("npu", "hccl", torch.float16, "the cube unit of every Ascend generation runs fp16"),
}

_current: Accelerator | None = None


def simulated(title: str) -> str | None:
    """Why a device of this name has no speed; None if it is not simulated."""
    return f"{title} counts, its times mean nothing" if title.startswith("Simulated") else None


def _npu_fault() -> str | None:
    """None if an NPU can be used; otherwise why not, with the text of a failed import of torch_npu."""
    if _npu_available():
        return None
    if importlib.util.find_spec("torch_npu") is None:
        return f"torch_npu is not installed (pip install the torch-npu that pairs with torch {torch.__version__})"
    try:
        importlib.import_module("torch_npu")
    except Exception as error:  # a missing CANN library, a version that does not pair with torch, ...
        return f"importing torch_npu failed: {type(error).__name__}: {error} (is CANN's set_env.sh sourced?)"
    return None if _npu_available() else "torch_npu is installed but finds no NPU (is CANN's set_env.sh sourced?)"


def _npu_available() -> bool:
    npu = getattr(torch, "npu", None)  # there once torch_npu is imported
    return npu is not None and npu.is_available()


def _cuda_fault() -> str | None:
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return "torch finds no CUDA device (check with nvidia-smi whether the driver does)"


def pick(requested: str = "auto") -> tuple[Accelerator, str]:
    """Choose the device kind.

    Args:
        requested: ``auto``, ``cpu``, ``cuda`` (or ``gpu``) or ``npu``; an index as in ``npu:0`` is ignored.

    Returns:
        the accelerator, and the reason for the log.

    Raises:
        UserError: the requested device is not usable, or the name is unknown.
    """
    name = requested.split(":")[0].lower()
    if name == "gpu":
        name = "cuda"
    faults = {"npu": _npu_fault, "cuda": _cuda_fault}
    if name == "auto":
        reasons = []
        for kind, fault in faults.items():
            why_not = fault()
            if why_not is None:
                return ACCELERATORS[kind], f"device {kind}: found {ACCELERATORS[kind].count()}, chosen by 'auto'"
            reasons.append(f"no {kind}: {why_not}")
        return ACCELERATORS["cpu"], f"device cpu: chosen by 'auto' ({'; '.join(reasons)})"
    if name not in ACCELERATORS:
        raise UserError(f"unknown device '{requested}'; choose auto, cpu, cuda or npu")
    why_not = faults[name]() if name in faults else None
    if why_not is not None:
        raise UserError(f"device '{requested}': {why_not}; device 'auto' takes what is available", setting="device")
    return ACCELERATORS[name], f"device {name}: asked for"


def use(accelerator: Accelerator) -> Accelerator:
    """Make this the device of the process, including mmengine's ``get_device()``."""
    global _current
    import mmengine.device.utils as mmengine_device

    _current = accelerator
    # mmengine decides at import and hides a failed import of torch_npu; its get_device() reads this variable.
    mmengine_device.DEVICE = accelerator.name
    return accelerator


@contextmanager
def used(accelerator: Accelerator) -> Iterator[None]:
    """:func:`use` within a ``with`` block."""
    global _current
    import mmengine.device.utils as mmengine_device

    before = _current, mmengine_device.DEVICE
    use(accelerator)
    try:
        yield
    finally:
        _current, mmengine_device.DEVICE = before


def current() -> Accelerator:
    """The device of the process; ``pick("auto")`` if :func:`use` has not been called."""
    return use(pick("auto")[0]) if _current is None else _current


def preprocessor_to(self: Any, *args: Any, **kwargs: Any) -> nn.Module:
    """Replaces ``BaseDataPreprocessor.to``: any device that torch knows."""
    target = torch._C._nn._parse_to(*args, **kwargs)[0]
    if target is not None:
        self._device = torch.device(target)
    return nn.Module.to(self, *args, **kwargs)


OVERRIDES = [
    Override(
        "mmengine.model.base_model.data_preprocessor:BaseDataPreprocessor.to",
        preprocessor_to,
        "upstream reads torch.npu.native_device, which torch_npu no longer has",
    ),
]
