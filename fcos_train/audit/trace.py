"""Counts the launches of a piece of code, by intercepting every operator below autograd. Works on any device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Operators that do not touch device memory; views are recognised by their schema.
FREE = {
    "aten::detach",
    "aten::empty.memory_format",
    "aten::empty_strided",
    "aten::empty_like",
    "aten::new_empty",
    "aten::new_empty_strided",
    "aten::lift_fresh",
    "aten::is_pinned",
    "aten::_pin_memory",
    "aten::record_stream",
    "aten::resize_",
    "aten::set_.source_Storage",
    "aten::set_.source_Tensor",
    "aten::_local_scalar_dense",
    "aten::_unsafe_view",
    "aten::_reshape_alias",
}
DENSE = ("aten::convolution", "aten::native_batch_norm", "aten::native_group_norm", "aten::native_layer_norm")
MATMUL = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")


def tensors_of(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples and dicts, of any shapes."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_of(item)
    elif isinstance(value, dict):
        yield from tensors_of(list(value.values()))


def _is_view(func: Any) -> bool:
    return any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)


def _ordered(tensor: Tensor) -> bool:
    """Whether the tensor is contiguous, in the default memory format or in channels_last."""
    if tensor.is_contiguous():
        return True
    return tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)


def _transposed_or_ordered(tensor: Tensor) -> bool:
    return tensor.is_contiguous() or (tensor.dim() >= 2 and tensor.transpose(-1, -2).is_contiguous())


class StepTrace(TorchDispatchMode):
    """Use as ``with StepTrace() as trace: step()``.

    Attributes:
        launches: operator -> calls, without views and other bookkeeping.
        operators: operator -> calls.
        signatures: operator with dtypes and shapes -> calls.
        syncs: reason -> times that the host waits for the device.
        copies: ``cpu to npu`` and the like -> copies between devices.
        strided: operator -> inputs of convolutions, norms and matrix products that are not contiguous.
        float64: operator -> calls with float64 tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.operators: Counter[str] = Counter()
        self.signatures: Counter[str] = Counter()
        self.syncs: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self.strided: Counter[str] = Counter()
        self.float64: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run an operator and count it."""
        kwargs = kwargs or {}
        inputs = [*tensors_of(args), *tensors_of(kwargs)]
        before = [(t.dtype, tuple(t.shape)) for t in inputs]
        result = func(*args, **kwargs)
        self._count(func, args, inputs, before, result)
        return result

    def _count(self, func: Any, args: tuple, inputs: list[Tensor], before: list[tuple], result: Any) -> None:
        name = func.name()
        if not name.startswith(("aten::", "npu::", "torchvision::", "mmcv::")):
            return  # markers of the profiler and of c10d
        self.operators[name] += 1
        self._sync(func, name, args)
        self._copy(name, inputs, result)
        if name in FREE or _is_view(func):
            return
        self.launches[name] += 1
        before = before or [(t.dtype, tuple(t.shape)) for t in tensors_of(result)]  # a factory function
        shapes = ", ".join(f"{str(dtype).removeprefix('torch.')}{list(shape)}" for dtype, shape in before)
        self.signatures[f"{name}({shapes})"] += 1
        if any(t.dtype == torch.float64 and t.dim() > 0 for t in [*inputs, *tensors_of(result)]):
            self.float64[name] += 1
        if name.startswith(DENSE):
            self.strided[name] += sum(not _ordered(t) for t in inputs)
        elif name in MATMUL:
            self.strided[name] += sum(not _transposed_or_ordered(t) for t in inputs)

    def _sync(self, func: Any, name: str, args: tuple) -> None:
        if name == "aten::_local_scalar_dense":
            self.syncs["a value is read (.item(), bool(), float())"] += 1
        elif "index" in name:
            indices = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else []
            if any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices):
                self.syncs[f"boolean mask as an index ({name})"] += 1
        elif torch.Tag.dynamic_output_shape in func.tags or torch.Tag.data_dependent_output in func.tags:
            self.syncs[f"the result's size depends on the data ({name})"] += 1

    def _copy(self, name: str, inputs: list[Tensor], result: Any) -> None:
        if name == "aten::copy_" and len(inputs) == 2:
            source, target = inputs[1].device.type, inputs[0].device.type
        elif name == "aten::_to_copy" and isinstance(result, Tensor):
            source, target = inputs[0].device.type, result.device.type
        else:
            return
        if source == target:
            return
        self.copies[f"{source} to {target}"] += 1
        if target == "cpu":
            self.syncs["a tensor is copied to the host"] += 1
