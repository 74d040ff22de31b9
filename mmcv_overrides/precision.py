"""Levels of mixed precision: what runs in 16 bits, what stays in fp32.

* O0: fp32 everywhere.
* O1: autocast to the 16-bit type that suits the device; weights stay fp32.
* bf16: O1 with bfloat16.
* O2: weights and activations in the 16-bit type, norm layers in fp32, fp32 master weights in the optimizer wrapper.

Losses, targets and box decoding run in fp32 at every level: focal loss and ``exp`` overflow in fp16.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from mmengine.model import BaseAveragedModel, BaseDataPreprocessor
from torch import nn

from mmcv_overrides.device import Accelerator
from mmcv_overrides.errors import UserError
from mmcv_overrides.seams import Override

LEVELS = ("O0", "O1", "O2", "bf16")
HALF_TYPES = {"fp16": torch.float16, "float16": torch.float16, "bf16": torch.bfloat16, "bfloat16": torch.bfloat16}
FP32_METHODS = ("loss_by_feat", "predict_by_feat", "loss_and_target", "refine_bboxes")
NORM_LAYERS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)


def half_dtype(level: str, accelerator: Accelerator, amp_dtype: str | torch.dtype | None = None) -> torch.dtype | None:
    """The 16-bit type of a level; None for O0.

    Raises:
        UserError: unknown level or type, or ``bf16`` together with another type.
    """
    if level not in LEVELS:
        raise UserError(f"unknown opt level '{level}'; choose one of {', '.join(LEVELS)}")
    if isinstance(amp_dtype, str):
        if amp_dtype not in HALF_TYPES:
            raise UserError(f"unknown 16-bit type '{amp_dtype}'; choose fp16 or bf16")
        amp_dtype = HALF_TYPES[amp_dtype]
    if level == "O0":
        return None
    if level == "bf16":
        if amp_dtype not in (None, torch.bfloat16):
            raise UserError("opt level bf16 contradicts the 16-bit type fp16; use O1 with fp16")
        return torch.bfloat16
    return amp_dtype or accelerator.half_dtype


def emulated(accelerator: Accelerator, dtype: torch.dtype | None) -> bool:
    """Whether the device computes in this type by converting to fp32 and back, which takes several times as long."""
    return accelerator.name == "cpu" and dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def describe(level: str, accelerator: Accelerator, dtype: torch.dtype | None) -> str:
    """One line for the log: the level, its 16-bit type and the reason."""
    if dtype is None:
        return f"precision {level}: fp32"
    chosen = accelerator.half_reason if dtype == accelerator.half_dtype and level != "bf16" else "asked for"
    line = f"precision {level}: {str(dtype).removeprefix('torch.')} ({chosen}); losses, targets, box decoding in fp32"
    if emulated(accelerator, dtype):
        line += ". This processor only emulates bfloat16: opt level O0 (fp32) is several times faster here"
    return line


def autocast(level: str, device_type: str, dtype: torch.dtype | None) -> AbstractContextManager:
    """The context of the forward pass: autocast for O1 and bf16."""
    if level in ("O1", "bf16"):
        return torch.autocast(device_type, dtype=dtype)
    return nullcontext()


def to_dtype(value: Any, dtype: torch.dtype) -> Any:
    """Cast the floating-point tensors within nested lists, tuples and dicts."""
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(to_dtype(v, dtype) for v in value)
    if type(value) is dict:
        return {k: to_dtype(v, dtype) for k, v in value.items()}
    return value


def _in_fp32(method: Callable) -> Callable:
    @functools.wraps(method)
    def call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        device = next((p.device.type for p in self.parameters()), "cpu")
        with torch.autocast(device, enabled=False):
            return method(self, *to_dtype(args, torch.float32), **to_dtype(kwargs, torch.float32))

    return call


@functools.cache
def _fp32_class(cls: type) -> type:
    methods = {name: _in_fp32(getattr(cls, name)) for name in FP32_METHODS if hasattr(cls, name)}
    return type(cls.__name__, (cls,), {**methods, "__module__": cls.__module__, "_fp32_losses": True})


def keep_losses_fp32(model: nn.Module) -> nn.Module:
    """Make every head of ``model`` compute losses, targets and boxes in fp32.

    The class of a head is replaced by a subclass; replaced bound methods would be wrong in copies of the model (EMA).
    """
    for module in model.modules():
        kind: type = type(module)
        if any(hasattr(kind, name) for name in FP32_METHODS) and not hasattr(kind, "_fp32_losses"):
            module.__class__ = _fp32_class(kind)
    return model


def is_cast(model: nn.Module) -> bool:
    """Whether :func:`cast_weights` has cast this model."""
    return getattr(model, "_is_cast", False)


def cast_weights(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """O2: weights and activations in ``dtype``, norm layers in fp32 between casts. A model is cast only once."""
    if is_cast(model):
        return model
    cast(Any, model)._is_cast = True

    def lower_inputs(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return to_dtype(args, dtype), to_dtype(kwargs, dtype)

    for module in model.modules():
        if isinstance(module, NORM_LAYERS):
            module.register_forward_pre_hook(lambda m, args: to_dtype(args, torch.float32))
            module.register_forward_hook(lambda m, args, out: out.to(dtype))
            continue
        if isinstance(module, BaseDataPreprocessor):
            continue
        for tensor in [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(dtype)
    for name in ("backbone", "neck"):
        part = getattr(model, name, None)
        if part is not None:
            part.register_forward_pre_hook(lower_inputs, with_kwargs=True)
    return model


_update_parameters = BaseAveragedModel.update_parameters


def update_parameters(self: BaseAveragedModel, model: nn.Module) -> None:
    """Average a model whose weights were cast after the average, which stays fp32, was created."""
    plain = self.avg_func
    self.avg_func = lambda averaged, source, steps: plain(averaged, source.to(averaged.dtype), steps)
    try:
        _update_parameters(self, model)
    finally:
        del self.avg_func


OVERRIDES = [
    Override(
        "mmengine.model.averaged_model:BaseAveragedModel.update_parameters",
        update_parameters,
        "an fp32 average (EMA) of the 16-bit weights of O2",
    ),
]
