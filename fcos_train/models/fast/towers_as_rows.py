"""The small levels of a dense head as the rows of one matrix: few large products instead of many tiny convolutions.

In a 320x320 image P5 to P7 are 6 % of the points but took 12 % of a step on a CPU: on such small maps launch overhead
dominates. Here both towers run over all of these levels together. 3x3 patches are gathered through an index table, a
convolution is one product, and the sums of a norm are a product with 0/1 rows: per image and level for GroupNorm, per
level for BatchNorm. The result equals that of running level by level.

Shape symbols as in :mod:`fcos_train.geometry.level_rows`; T towers, C input channels, O output channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fcos_train.geometry.level_rows import membership, mirrored, neighbours, points_of_segments, rows_of, segment_of
from fcos_train.geometry.points import Sizes
from fcos_train.models.fast import merged_norm
from fcos_train.models.fast.cpu_conv import cast
from fcos_train.models.level_norm import LevelNorm


@dataclass(frozen=True)
class Rows:
    """The maps that the rows hold: (rows, columns) of each, and the number of images."""

    sizes: Sizes
    batch: int

    def patches(self, x: Tensor, table: Callable[[Sizes, int, torch.device], Tensor] = neighbours) -> Tensor:
        """[T, M, C] -> [T, M, 9 * C], with zeros outside the maps."""
        towers, count, channels = x.shape
        index = table(self.sizes, towers * self.batch, x.device)
        padded = F.pad(x.reshape(-1, channels), (0, 0, 0, 1))
        return padded.index_select(0, index).view(towers, count, -1)

    def predict(self, layer: nn.Conv2d, feature: Tensor) -> Tensor:
        """Feature [M, C] -> the output [B, O, Q] of the layer."""
        out = convolve(self, feature.unsqueeze(0), [layer])
        return out.view(self.batch, -1, out.shape[2]).transpose(1, 2)


class _Convolve(torch.autograd.Function):
    """3x3 convolutions with stride 1 and padding 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Rows, *weights: Tensor) -> Tensor:
        """x [T, M, C], or [1, M, C] for all towers, with T weights [O, C, 3, 3] -> [T, M, O]."""
        patches = rows.patches(x)
        out = x.new_empty(len(weights), x.shape[1], len(weights[0]))
        for tower, (weight, target) in enumerate(zip(weights, out, strict=True)):
            matrix = weight.permute(0, 2, 3, 1).reshape(len(weight), -1)
            torch.mm(patches[tower % len(x)], matrix.t(), out=target)
        ctx.save_for_backward(x, *weights)  # not the patches: they are nine times as large and cheap to gather
        ctx.rows = rows
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x and of the weights."""
        x, *weights = ctx.saved_tensors
        patches, by_weights = ctx.rows.patches(x), []
        for tower, (weight, needed) in enumerate(zip(weights, ctx.needs_input_grad[2:], strict=True)):
            product = grad[tower].t() @ patches[tower % len(x)] if needed else None
            by_weights.append(product if product is None else product.view(len(weight), 3, 3, -1).permute(0, 3, 1, 2))
        if not ctx.needs_input_grad[0]:
            return None, None, *by_weights
        around = ctx.rows.patches(grad, mirrored)
        by_x = torch.empty_like(x)
        for tower, weight in enumerate(weights):
            matrix = weight.permute(2, 3, 0, 1).reshape(-1, weight.shape[1])
            if tower < len(by_x):
                torch.mm(around[tower], matrix, out=by_x[tower])
            else:
                by_x[0].addmm_(around[tower], matrix)
        return by_x, None, *by_weights


class _RowsGroupNormReLU(torch.autograd.Function):
    """GroupNorm (arXiv 1803.08494) with statistics per image and level, then ReLU. Computes in f32.
    Further shape symbols: G groups of K channels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, rows: Rows, groups: int, eps: float) -> Tensor:
        """x [T, M, C], weight and bias [T, 1, C] -> y like x."""
        place = rows.sizes, rows.batch, x.device
        with torch.autocast(x.device.type, enabled=False):
            wide, weight, dtype = x.float(), weight.float(), weight.dtype
            parts = (len(x), -1, groups, x.shape[2] // groups)  # [T, S, G, K]
            size = points_of_segments(*place) * parts[3]  # [S, 1]
            mean, square = (
                torch.matmul(membership(*place), values).view(parts).sum(3) / size for values in (wide, wide * wide)
            )
            rstd = torch.rsqrt(torch.addcmul(square, mean, mean, value=-1).clamp_(min=0) + eps)  # [T, S, G]
            scale = (rstd.unsqueeze(3) * weight.view(len(x), 1, groups, -1)).flatten(2)  # [T, S, C]
            shift = bias.float() - (mean.unsqueeze(3) * scale.view(parts)).flatten(2)
            segment = segment_of(*place)
            y = torch.addcmul(shift.index_select(1, segment), wide, scale.index_select(1, segment))
            y = y.relu_().to(x.dtype)
        ctx.save_for_backward(x, y, weight, mean, rstd, scale)
        ctx.rows, ctx.dtype = rows, dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight and bias."""
        x, y, weight, mean, rstd, scale = ctx.saved_tensors
        place = ctx.rows.sizes, ctx.rows.batch, x.device
        wide = x.float()
        grad = torch.ops.aten.threshold_backward(grad, y, 0).float()
        sums, products = (torch.matmul(membership(*place), values) for values in (grad, grad * wide))  # [T, S, C]
        parts = (*rstd.shape, -1)
        size = points_of_segments(*place) * (x.shape[2] // rstd.shape[2])
        by_shift, by_scale = ((values * weight).view(parts).sum(3) for values in (sums, products))  # [T, S, G]
        by_x = (by_shift * mean - by_scale) * rstd**3 / size
        by_one = -by_x * mean - by_shift * rstd / size
        by_x, by_one = (
            part.unsqueeze(3).expand(*part.shape, weight.shape[2] // part.shape[2]).flatten(2)
            for part in (by_x, by_one)
        )
        a, b, c = (values.index_select(1, segment_of(*place)) for values in (scale, by_x, by_one))
        by_input = c.addcmul_(wide, b).addcmul_(grad, a).to(x.dtype)
        mean, rstd = (part.unsqueeze(3) for part in (mean, rstd))
        by_weight = ((products.view(parts) - mean * sums.view(parts)) * rstd).flatten(2).sum(1, keepdim=True)
        by_bias = sums.sum(1, keepdim=True)
        return by_input, by_weight.to(ctx.dtype), by_bias.to(ctx.dtype), None, None, None


def run_as_rows(
    maps: Sequence[Tensor], first: Sequence[ConvModule], second: Sequence[ConvModule], level: int = 0
) -> tuple[Rows, Tensor]:
    """Features of both towers, [2, M, C].

    Args:
        maps: [B, C, H, W] of each level.
        first, second: the layers of each tower; see :func:`fcos_train.models.fast.towers.obstacle`.
        level: index of the first of these levels in the pyramid.
    """
    rows = Rows(tuple((int(level.shape[2]), int(level.shape[3])) for level in maps), len(maps[0]))
    x = rows_of(maps).unsqueeze(0)
    for layers in zip(first, second, strict=True):
        x = convolve(rows, x, [layer.conv for layer in layers])
        norms = [layer.norm for layer in layers] if layers[0].with_norm else []
        if norms and isinstance(norms[0], LevelNorm):
            x = merged_norm.level_norm_relu(x, norms, merged_norm.InRows(rows.sizes, rows.batch, x.device), level)
        elif norms:
            weight, bias = (
                torch.stack([getattr(norm, name) for norm in norms]).unsqueeze(1) for name in ("weight", "bias")
            )
            x = _RowsGroupNormReLU.apply(x, weight, bias, rows, norms[0].num_groups, norms[0].eps)
        else:
            x = x.relu_()
    return rows, x


def convolve(rows: Rows, x: Tensor, convs: Sequence[nn.Conv2d]) -> Tensor:
    """x [T, M, C] or [1, M, C] through T layers of the same width -> [T, M, O]."""
    y = _Convolve.apply(x, rows, *(cast(conv.weight, x.dtype) for conv in convs))
    biases = [conv.bias for conv in convs if conv.bias is not None]
    return y + torch.stack(biases).unsqueeze(1).to(y.dtype) if biases else y
