"""Convolutions of small maps as matrix products: quicker for bf16 in channels_last on a CPU.

A 1x1 convolution is a product of the pixels with the weight; a 3x3 convolution is one of the 3x3 patches. For the small
maps of a pyramid oneDNN's convolution kernels need up to 3.5 times as long, above all for the gradient of the weight
(docs/performance.md). Large maps, other types and other devices go through torch's own convolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# In positions; where the two ways take about the same time on two cores with AVX-512 bf16.
MOST_PIXELS = 1600  # of a batch: weight and input gradient of a 1x1 layer
FEW_PIXELS = 512  # of a batch: its forward pass too
SMALL_MAP = 144  # of one map: weight gradient of a 3x3 layer
TINY_MAP = 30  # of one map: its forward pass too

_casts: dict[tuple[int, torch.dtype], Tensor] | None = None


@contextmanager
def shared_casts() -> Iterator[None]:
    """Within it a weight that is used for several maps is cast once, as autocast does for its own operators."""
    global _casts
    before, _casts = _casts, {}
    try:
        yield
    finally:
        _casts = before


def _cast(weight: Tensor, dtype: torch.dtype) -> Tensor:
    if _casts is None or not weight.is_leaf:
        return weight.to(dtype)
    key = (id(weight), dtype)
    if key not in _casts:
        _casts[key] = weight.to(dtype)
    return _casts[key]


def pixels_of(x: Tensor) -> Tensor:
    """[B, C, H, W] in channels_last -> [B * H * W, C], a view."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def patches_of(x: Tensor) -> Tensor:
    """[B, C, H, W] in channels_last -> [B * H * W, 9 * C], the 3x3 neighbourhood of each position, zeros outside."""
    batch, channels, height, width = x.shape
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    image, row, column, _ = padded.stride()
    windows = padded.as_strided((batch, height, width, 3, 3, channels), (image, row, column, row, column, 1))
    return windows.reshape(-1, 9 * channels)


def _product(pixels: Tensor, matrix: Tensor, bias: Tensor | None, size: tuple[int, int, int]) -> Tensor:
    """[M, K] @ [K, O] + [O] -> [B, O, H, W] in channels_last, no view, as autograd wants it of a function."""
    count, height, width = size
    channels = matrix.shape[1]
    strides = (height * width * channels, 1, width * channels, channels)
    maps = torch.empty_strided((count, channels, height, width), strides, dtype=pixels.dtype, device=pixels.device)
    out = maps.permute(0, 2, 3, 1).view(-1, channels)
    torch.mm(pixels, matrix, out=out) if bias is None else torch.addmm(bias, pixels, matrix, out=out)
    return maps


class _PointwiseConv(torch.autograd.Function):
    """1x1 convolution of any stride: x [B, C, H, W], weight [O, C, 1, 1], bias [O] or None, of one 16-bit type."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        near = x if stride == 1 else x[:, :, ::stride, ::stride].contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(near, weight)
        ctx.shape, ctx.stride = x.shape, stride
        pixels = pixels_of(near)
        if len(pixels) > FEW_PIXELS:
            return F.conv2d(near, weight, bias)
        return _product(pixels, weight.flatten(1).t(), bias, (len(near), *near.shape[2:]))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        near, weight = ctx.saved_tensors
        pixels = pixels_of(grad.contiguous(memory_format=torch.channels_last))
        by_x = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            by_x = _product(pixels, weight.flatten(1), None, (len(near), *near.shape[2:]))
            if ctx.stride > 1:
                wide = torch.zeros(ctx.shape[0], *ctx.shape[2:], ctx.shape[1], dtype=grad.dtype).permute(0, 3, 1, 2)
                wide[:, :, :: ctx.stride, :: ctx.stride] = by_x
                by_x = wide
        if ctx.needs_input_grad[1]:
            by_weight = (pixels.t() @ pixels_of(near)).view_as(weight)
        if ctx.needs_input_grad[2]:
            by_bias = pixels.sum(0)
        return by_x, by_weight, by_bias, None


class _SmallConv(torch.autograd.Function):
    """3x3 convolution of stride 1 with padding 1; arguments as in :class:`_PointwiseConv`."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if x.shape[2] * x.shape[3] > TINY_MAP:
            ctx.save_for_backward(x, weight, None)
            return F.conv2d(x, weight, bias, padding=1)
        patches = patches_of(x)
        ctx.save_for_backward(x, weight, patches)
        matrix = weight.permute(2, 3, 1, 0).reshape(-1, len(weight))
        return _product(patches, matrix, bias, (len(x), *x.shape[2:]))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight, patches = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        pixels = pixels_of(grad)
        by_x = by_weight = by_bias = None
        if ctx.needs_input_grad[0]:
            kept = [True, False, False]
            where = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)  # stride, padding, dilation, transposed, groups
            by_x = torch.ops.aten.convolution_backward(grad, x, weight, None, *where, kept)[0]
        if ctx.needs_input_grad[1]:
            product = pixels.t() @ (patches_of(x) if patches is None else patches)
            by_weight = product.view(len(weight), 3, 3, -1).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[2]:
            by_bias = pixels.sum(0)
        return by_x, by_weight, by_bias


class QuickConv2d(nn.Conv2d):
    """The same layer as ``nn.Conv2d``; made by :func:`quick_conv`."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        kind = self._quick_kind(x, weight)
        if kind is None:
            return super()._conv_forward(x, weight, bias)
        stride = self.stride[:1] if kind is _PointwiseConv else ()
        return kind.apply(x, _cast(weight, x.dtype), None if bias is None else bias.to(x.dtype), *stride)

    def _quick_kind(self, x: Tensor, weight: Tensor) -> type | None:
        plain = (
            x.device.type == "cpu"
            and x.dtype == torch.bfloat16
            and x.dim() == 4
            and weight.requires_grad
            and torch.is_grad_enabled()
            and (self.groups, self.dilation, self.padding_mode) == (1, (1, 1), "zeros")
            and not torch.compiler.is_compiling()
            and x.is_contiguous(memory_format=torch.channels_last)
        )
        if not plain:
            return None
        count, _, height, width = x.shape
        if (self.kernel_size, self.padding) == ((1, 1), (0, 0)) and self.stride[0] == self.stride[1]:
            pixels = count * -(-height // self.stride[0]) * -(-width // self.stride[0])
            return _PointwiseConv if pixels <= MOST_PIXELS else None
        same = (self.kernel_size, self.stride, self.padding) == ((3, 3), (1, 1), (1, 1))
        return _SmallConv if same and height * width <= SMALL_MAP else None


def quick_conv(model: nn.Module) -> int:
    """Turn every ``nn.Conv2d`` of ``model`` into a :class:`QuickConv2d`. Returns how many."""
    layers = [module for module in model.modules() if type(module) is nn.Conv2d]
    for layer in layers:
        layer.__class__ = QuickConv2d
    return len(layers)
