"""The two towers of a dense head over all levels at once: few launches, for devices that wait for each of them.

The levels lie on one canvas (:mod:`fcos_train.geometry.level_canvas`); the two towers are the two groups of one convolution.
GroupNorm and BatchNorm take their statistics per level, so that the result is that of the levels one by one. On a device where a launch
costs nothing the levels one by one are quicker: the canvas is 12 % larger than they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from fcos_train.geometry.level_canvas import Canvas, inside, level_means, level_rows, level_shares
from fcos_train.models.fast import merged_norm
from fcos_train.models.fast.cpu_conv import QuickConv2d, has_hooks
from fcos_train.models.level_norm import LevelNorm


def obstacle(first: Sequence[nn.Module], second: Sequence[nn.Module]) -> str | None:
    """Why these two towers cannot run on a canvas; None when they can."""
    if len(first) != len(second) or not len(first):
        return "towers of different length"
    for one, other in zip(first, second, strict=True):
        for layer in (one, other):
            if isinstance(layer, ConvModule) and (layer._forward_hooks or layer._forward_pre_hooks or has_hooks(layer)):
                return "a hook on a layer of a tower"
            if (
                not isinstance(layer, ConvModule)
                or type(layer.conv) not in (nn.Conv2d, QuickConv2d)
                or layer.order != ("conv", "norm", "act")
            ):
                return f"a layer {type(getattr(layer, 'conv', layer)).__name__} in a tower"
            conv = layer.conv
            if (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups) != (
                (3, 3),
                (1, 1),
                (1, 1),
                (1, 1),
                1,
            ):
                return "a convolution in a tower that is not plain 3x3"
            if conv.padding_mode != "zeros" or layer.with_explicit_padding or layer.with_spectral_norm:
                return "a convolution in a tower with padding or normalisation of its own"
            if not (layer.with_activation and isinstance(layer.activate, nn.ReLU)):
                return "an activation other than ReLU"
            if (
                layer.with_norm
                and not isinstance(layer.norm, LevelNorm)
                and not (isinstance(layer.norm, nn.GroupNorm) and layer.norm.affine)
            ):
                return f"a norm that is neither GroupNorm nor BatchNorm per level ({type(layer.norm).__name__})"
        if one.with_norm != other.with_norm or (one.conv.bias is None) != (other.conv.bias is None):
            return "towers of different kinds"
        reason = _obstacle_of_norms(one.norm, other.norm) if one.with_norm else None
        if reason is not None:
            return reason
        if one.conv.weight.shape != other.conv.weight.shape:
            return "towers of different width"
    return None


def _obstacle_of_norms(one: nn.Module, other: nn.Module) -> str | None:
    if type(one) is not type(other):
        return "towers of different norms"
    if isinstance(one, LevelNorm):
        return merged_norm.obstacle(one, other)
    return "towers of different norms" if (one.num_groups, one.eps) != (other.num_groups, other.eps) else None


def run_towers(
    canvas: Canvas, maps: Sequence[Tensor], first: Sequence[ConvModule], second: Sequence[ConvModule]
) -> tuple[Tensor, Tensor]:
    """Features of both towers, [B, C, height, width] each, zero on the border.

    Args:
        maps: [B, C, H, W] of each level. first, second: towers without :func:`obstacle`.
    """
    x = _Pack.apply(canvas, *maps)
    for groups, one, other in zip(_groups(), first, second, strict=False):
        weight = torch.cat((one.conv.weight, other.conv.weight))
        bias = None if one.conv.bias is None else torch.cat((one.conv.bias, other.conv.bias))
        x = F.conv2d(x, weight, bias, padding=1, groups=groups)
        if one.with_norm and isinstance(one.norm, LevelNorm):
            layout = merged_norm.OnCanvas(canvas, len(x), x.device)
            x = merged_norm.level_norm_relu(x, (one.norm, other.norm), layout)
        elif one.with_norm:
            affine = (torch.cat((one.norm.weight, other.norm.weight)), torch.cat((one.norm.bias, other.norm.bias)))
            x = _GroupNormReLU.apply(x, *affine, canvas, 2 * one.norm.num_groups, one.norm.eps)
        else:
            x = _InsideReLU.apply(x, inside(canvas, x.device).view(canvas.height, canvas.width).to(x.dtype))
    one, other = x.chunk(2, dim=1)
    return one.contiguous(), other.contiguous()


def _groups() -> Iterator[int]:
    """The first layers of both towers have one input, the others one each."""
    yield 1
    while True:
        yield 2


class _Pack(torch.autograd.Function):
    """Maps to their places on a canvas of zeros."""

    @staticmethod
    def forward(ctx, canvas: Canvas, *maps: Tensor) -> Tensor:
        ctx.canvas = canvas
        packed = maps[0].new_zeros((*maps[0].shape[:2], canvas.height, canvas.width))
        for level, (rows, columns) in zip(maps, canvas.regions(), strict=True):
            packed[:, :, rows, columns].copy_(level)
        return packed

    @staticmethod
    def backward(ctx, grad: Tensor):
        return None, *(grad[:, :, rows, columns].contiguous() for rows, columns in ctx.canvas.regions())


class _InsideReLU(torch.autograd.Function):
    """ReLU, and zero on the border; one mask serves the backward pass for both."""

    @staticmethod
    def forward(ctx, x: Tensor, mask: Tensor) -> Tensor:
        y = (x * mask).relu_()
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):
        (y,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grad, y, 0), None


class _GroupNormReLU(torch.autograd.Function):
    """GroupNorm (arXiv 1803.08494) with statistics per level, then ReLU; zero on the border. f32 inside.

    Sums over a level are products with its 0/1 row, so no level needs a launch of its own. Letters: B images,
    G groups of K channels, N positions, L levels.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, canvas: Canvas, groups: int, eps: float) -> Tensor:
        batch, channels, height, width = x.shape
        each = channels // groups
        levels, means = level_rows(canvas, x.device), level_means(canvas, x.device, each)
        with torch.autocast(x.device.type, enabled=False):
            rows = x.float().view(batch * groups, -1)
            mean = torch.mm(torch.mm(rows, means), levels)  # [BG, N]
            centred = rows.view(batch, groups, each, -1) - mean.view(batch, groups, 1, -1)
            variance = torch.mm((centred * centred).view(batch * groups, -1), means)
            rstd = variance.add_(eps).rsqrt_().view(batch, groups, 1, -1)
            scale = torch.mm((rstd * weight.float().view(groups, each, 1)).view(batch * channels, -1), levels)
            shift = bias.float().view(groups, each, 1) * inside(canvas, x.device)
            y = torch.addcmul(shift, centred, scale.view_as(centred)).relu_().view(x.shape).to(x.dtype)
        ctx.save_for_backward(centred, rstd, scale, y, weight)
        ctx.canvas = canvas
        return y

    @staticmethod
    def backward(ctx, grad: Tensor):
        centred, rstd, scale, y, weight = ctx.saved_tensors
        batch, groups, each, positions = centred.shape
        levels = level_rows(ctx.canvas, y.device)
        rstd = rstd.squeeze(2)  # [B, G, L]
        grad = torch.ops.aten.threshold_backward(grad, y, 0).float().view_as(centred)
        sums = torch.mm(grad.view(-1, positions), levels.t()).view(batch, groups * each, -1)  # [B, C, L]
        products = torch.mm((grad * centred).view(-1, positions), levels.t()).view(batch, groups, each, -1)
        products = (products * rstd.unsqueeze(2)).flatten(1, 2)
        # weighted sums over the channels of a group: products with the weights in a block diagonal
        blocks = (weight.float().view(groups, 1, each) * _eye(groups, y.device)).view(groups, -1)
        by_one = torch.matmul(blocks, sums) * rstd
        by_x = torch.matmul(blocks, products) * rstd * rstd
        shares = level_shares(ctx.canvas, y.device, -each)
        by_one, by_x = (torch.matmul(part, shares).unsqueeze(2) for part in (by_one, by_x))
        by_input = torch.addcmul(by_one, centred, by_x).addcmul_(grad, scale.view_as(grad))
        by_weight, by_bias = (part.sum((0, 2)).to(weight.dtype) for part in (products, sums))
        return by_input.view_as(y).to(y.dtype), by_weight, by_bias, None, None, None


@lru_cache(maxsize=16)
def _eye(size: int, device: torch.device) -> Tensor:
    """[size, size, 1]"""
    with torch.inference_mode(False):
        return torch.eye(size, device=device).unsqueeze(2)
