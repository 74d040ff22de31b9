"""Convolutions of small maps as matrix products, which are faster for channels_last maps on a CPU.

A 1x1 convolution is the product of pixels and weight; a 3x3 convolution is the product of 3x3 patches and weight. For
the small maps of a pyramid oneDNN's convolution kernels take up to 3.5 times as long, above all for the gradient of the
weight (docs/performance.md). Large maps, other dtypes and other devices use torch's own convolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fcos_train.models.fast.fold_bn import FoldedConv2d

# Limits in positions, at which both ways take about the same time on two cores with AVX-512 bf16.
MOST_PIXELS = 1600  # per batch: weight and input gradient of a 1x1 layer
FEW_PIXELS = 512  # per batch: forward pass of a 1x1 layer
SMALL_MAP = 144  # per map: weight gradient of a 3x3 layer
NARROW = 8  # output channels of a 3x3 layer: both gradients
# With AMX a product is faster for the weight gradient of every 1x1 layer.
HAS_AMX = getattr(torch.cpu, "_is_amx_tile_supported", bool)()


@dataclass
class _State:
    """State of the process; only the context managers below change it."""

    enabled: bool = True
    casts: dict[tuple[int, torch.dtype], Tensor] | None = None


_state = _State()


@contextmanager
def shared_casts() -> Iterator[None]:
    """Cast a weight that is used for several maps only once, as autocast does for its own operators."""
    before, _state.casts = _state.casts, {}
    try:
        yield
    finally:
        _state.casts = before


def cast(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """``weight.to(dtype)``; within :func:`shared_casts` the result is reused."""
    casts = _state.casts
    if casts is None or not weight.is_leaf:
        return weight.to(dtype)
    key = (id(weight), dtype)
    if key not in casts:
        casts[key] = weight.to(dtype)
    return casts[key]


@contextmanager
def cpu_paths_off() -> Iterator[None]:
    """Disable the CPU-only fast paths, so that the operators are those of other devices."""
    before, _state.enabled = _state.enabled, False
    try:
        yield
    finally:
        _state.enabled = before


def is_quick_map(x: Tensor) -> bool:
    """Whether the CPU-only fast paths apply to ``x``. They leave a model alone that torch.compile is tracing."""
    return (
        _state.enabled
        and x.device.type == "cpu"
        and (x.dtype == torch.bfloat16 or x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu"))
        and x.dim() == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.compiler.is_compiling()
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether any submodule has forward hooks, which are not called when submodules run as one function."""
    return any(part._forward_hooks or part._forward_pre_hooks for part in module.modules() if part is not module)


def pixels_of(x: Tensor) -> Tensor:
    """[B, C, H, W] in channels_last -> [B * H * W, C], a view."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def patches_of(x: Tensor, stride: int = 1) -> Tensor:
    """[B, C, H, W] in channels_last -> [B * h * w, 9 * C], the 3x3 neighbourhood of every ``stride``-th position,
    with zeros outside the map."""
    batch, channels, height, width = x.shape
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    image, row, column, _ = padded.stride()
    size = (batch, -(-height // stride), -(-width // stride), 3, 3, channels)
    return padded.as_strided(size, (image, row * stride, column * stride, row, column, 1)).reshape(-1, 9 * channels)


def _product(pixels: Tensor, matrix: Tensor, bias: Tensor | None, size: tuple[int, int, int]) -> Tensor:
    """[M, K] @ [K, O] + [O] -> [B, O, H, W] in channels_last; not a view, which autograd.Function must not return."""
    count, height, width = size
    channels = matrix.shape[1]
    strides = (height * width * channels, 1, width * channels, channels)
    maps = torch.empty_strided((count, channels, height, width), strides, dtype=pixels.dtype, device=pixels.device)
    out = maps.permute(0, 2, 3, 1).view(-1, channels)
    torch.mm(pixels, matrix, out=out) if bias is None else torch.addmm(bias, pixels, matrix, out=out)
    return maps


class ConvParams(NamedTuple):
    """The parameters of a convolution beside its kernel, each for (rows, columns)."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @classmethod
    def of(cls, conv: nn.Conv2d) -> ConvParams:
        """Those of a layer with explicit padding."""
        assert not isinstance(conv.padding, str)  # "same" and "valid" are not used by mmdet's layers
        return cls(conv.stride, conv.padding, conv.dilation, conv.groups)  # type: ignore[arg-type]


POINTWISE = ConvParams((1, 1), (0, 0), (1, 1), 1)  # with a 1x1 kernel
SAME = ConvParams((1, 1), (1, 1), (1, 1), 1)  # with a 3x3 kernel


def thinned(x: Tensor, stride: int) -> Tensor:
    """The positions of ``x`` [B, C, H, W] that a 1x1 convolution of this stride reads, in channels_last."""
    return x if stride == 1 else x[:, :, ::stride, ::stride].contiguous(memory_format=torch.channels_last)


def spread(near: Tensor, shape: Sequence[int], stride: int) -> Tensor:
    """The inverse of :func:`thinned`: [B, C, H, W] of ``shape``, with zeros at the positions that were left out."""
    if stride == 1:
        return near
    batch, channels, height, width = shape
    wide = torch.zeros(batch, height, width, channels, dtype=near.dtype).permute(0, 3, 1, 2)
    wide[:, :, ::stride, ::stride] = near
    return wide


def by_input(grad: Tensor, x: Tensor, weight: Tensor, where: ConvParams, onto: Tensor | None = None) -> Tensor:
    """Gradient of a convolution with respect to its input, [B, C, H, W].

    Args:
        grad, x: [B, O, h, w] and [B, C, H, W] in channels_last. weight: [O, C / groups, k, k]. All of one dtype.
        onto: tensor like x to which the gradient is added in place; None for a new tensor.
    """
    plain = where == POINTWISE and weight.shape[2:] == (1, 1)
    if plain and onto is not None:
        pixels_of(onto).addmm_(pixels_of(grad), weight.flatten(1))
        return onto
    size = (len(x), *x.shape[2:])
    if plain and x[:, 0].numel() <= MOST_PIXELS:
        return _product(pixels_of(grad), weight.flatten(1), None, size)
    if _is_narrow(weight, where):
        found = _product(
            patches_of(grad), weight.flip(2, 3).permute(2, 3, 0, 1).reshape(-1, weight.shape[1]), None, size
        )
    else:
        found = _backward(grad, x, weight, where, 0)
    return found if onto is None else onto.add_(found)


def by_weight(grad: Tensor, x: Tensor, weight: Tensor, where: ConvParams) -> Tensor:
    """Gradient of a convolution with respect to its weight, laid out as it; arguments as in :func:`by_input`."""
    return laid_out_as(_by_weight(grad, x, weight, where), weight)


def laid_out_as(grad: Tensor, weight: Tensor) -> Tensor:
    """``grad`` with the strides of ``weight``, a view where only axes of length 1 have other strides.

    autograd copies a gradient that is laid out otherwise than its weight, and DDP warns of it at every rank.
    """
    if grad.stride() == weight.stride():
        return grad
    if all(a == b or side == 1 for a, b, side in zip(grad.stride(), weight.stride(), weight.shape, strict=True)):
        return grad.as_strided(weight.shape, weight.stride())
    return torch.empty_like(weight, dtype=grad.dtype).copy_(grad)


def _by_weight(grad: Tensor, x: Tensor, weight: Tensor, where: ConvParams) -> Tensor:
    if where == POINTWISE and weight.shape[2:] == (1, 1) and (HAS_AMX or x[:, 0].numel() <= MOST_PIXELS):
        return (pixels_of(grad).t() @ pixels_of(x)).view_as(weight)
    if _is_narrow(weight, where):
        product = patches_of(grad).t() @ pixels_of(x)
        return product.view(3, 3, len(weight), -1).flip(0, 1).permute(2, 3, 0, 1)
    if weight.shape[2:] == (3, 3) and where._replace(stride=(1, 1)) == SAME and grad[0, 0].numel() <= SMALL_MAP:
        product = pixels_of(grad).t() @ patches_of(x, where.stride[0])
        return product.view(len(weight), 3, 3, -1).permute(0, 3, 1, 2)
    return _backward(grad, x, weight, where, 1)


def _is_narrow(weight: Tensor, where: ConvParams) -> bool:
    """Whether this is a 3x3 convolution with so few output channels that patches of its gradient are small."""
    return where == SAME and weight.shape[2:] == (3, 3) and len(weight) <= NARROW


def _backward(grad: Tensor, x: Tensor, weight: Tensor, where: ConvParams, which: int) -> Tensor:
    """torch's own gradient of the input (``which`` 0) or of the weight (1)."""
    stride, padding, dilation, groups = where
    wanted = [index == which for index in range(3)]
    rest = (stride, padding, dilation, False, (0, 0), groups, wanted)
    return torch.ops.aten.convolution_backward(grad, x, weight, None, *rest)[which]


class _PointwiseConv(torch.autograd.Function):
    """1x1 convolution of any stride."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        """x [B, C, H, W], weight [O, C, 1, 1], bias [O] or None, all of one dtype -> [B, O, h, w]."""
        near = thinned(x, stride)
        ctx.save_for_backward(near, weight)
        ctx.shape, ctx.stride = x.shape, stride
        pixels = pixels_of(near)
        if len(pixels) > FEW_PIXELS:
            return F.conv2d(near, weight, bias)
        return _product(pixels, weight.flatten(1).t(), bias, (len(near), *near.shape[2:]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight and bias."""
        near, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        wanted = ctx.needs_input_grad
        return (
            spread(by_input(grad, near, weight, POINTWISE), ctx.shape, ctx.stride) if wanted[0] else None,
            by_weight(grad, near, weight, POINTWISE) if wanted[1] else None,
            pixels_of(grad).sum(0) if wanted[2] else None,
            None,
        )


class _SmallConv(torch.autograd.Function):
    """3x3 convolution with padding 1 of a small map, or with few output channels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        """x [B, C, H, W], weight [O, C, 3, 3], bias [O] or None, all of one dtype -> [B, O, h, w]."""
        ctx.save_for_backward(x, weight)
        ctx.where = SAME._replace(stride=(stride, stride))
        return F.conv2d(x, weight, bias, stride, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight and bias."""
        x, weight = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        wanted = ctx.needs_input_grad
        return (
            by_input(grad, x, weight, ctx.where) if wanted[0] else None,
            by_weight(grad, x, weight, ctx.where) if wanted[1] else None,
            pixels_of(grad).sum(0) if wanted[2] else None,
            None,
        )


class QuickConv2d(nn.Conv2d):
    """The same layer as ``nn.Conv2d``; created by :func:`quick_conv`."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        kind = self._quick_kind(x, weight)
        if kind is None:
            shares = _state.casts is not None and is_quick_map(x)
            return super()._conv_forward(x, cast(weight, x.dtype) if shares else weight, bias)
        return kind.apply(x, cast(weight, x.dtype), None if bias is None else bias.to(x.dtype), self.stride[0])

    def _quick_kind(self, x: Tensor, weight: Tensor) -> type[_PointwiseConv] | type[_SmallConv] | None:
        """The function that replaces torch's convolution of this map, or None."""
        plain = (
            is_quick_map(x)
            and weight.requires_grad
            and torch.is_grad_enabled()
            and (self.groups, self.dilation, self.padding_mode) == (1, (1, 1), "zeros")
            and self.stride[0] == self.stride[1]
        )
        if not plain:
            return None
        positions = -(-x.shape[2] // self.stride[0]) * -(-x.shape[3] // self.stride[0])
        if (self.kernel_size, self.padding) == ((1, 1), (0, 0)):
            return _PointwiseConv if HAS_AMX or len(x) * positions <= MOST_PIXELS else None
        small = positions <= SMALL_MAP or _is_narrow(weight, ConvParams.of(self))
        return _SmallConv if (self.kernel_size, self.padding) == ((3, 3), (1, 1)) and small else None


class QuickFoldedConv2d(QuickConv2d, FoldedConv2d):
    """The same layer as :class:`FoldedConv2d`; created by :func:`quick_conv`."""


QUICK: dict[type, type] = {nn.Conv2d: QuickConv2d, FoldedConv2d: QuickFoldedConv2d}


def quick_conv(model: nn.Module) -> int:
    """Turn every ``nn.Conv2d`` and :class:`FoldedConv2d` of ``model`` into its fast form. Returns their number."""
    layers = [module for module in model.modules() if type(module) in QUICK]
    for layer in layers:
        layer.__class__ = QUICK[type(layer)]
    return len(layers)
