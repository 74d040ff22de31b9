"""BatchNorm per level (:mod:`fcos_train.models.level_norm`) and ReLU for both towers and several levels at once.

One autograd function serves both layouts that hold several levels, the canvas (:mod:`.towers_on_canvas`) and the rows
(:mod:`.towers_as_rows`): a layout knows how to sum over a level and how to broadcast a value over it. Running
statistics are updated as in ``nn.BatchNorm2d``, which normalises with the biased variance and tracks the unbiased one.

Shape symbols: B images, L levels, T towers, C channels of a tower, N positions of a canvas, M rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from fcos_train.geometry.level_canvas import Canvas, level_rows
from fcos_train.geometry.level_rows import level_membership, level_of
from fcos_train.geometry.points import Sizes
from fcos_train.models.level_norm import LevelNorm, has_batch_statistics


class Layout(Protocol):
    """The arrangement of the maps of some levels. A *table* holds a value per level and channel, in an order that
    depends on the layout."""

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of values per channel on each level, over all images."""

    def column(self, values: tuple[float, ...]) -> Tensor:
        """One number per level, in a shape that multiplies a table."""

    def table(self, values: Tensor) -> Tensor:
        """[L, T * C] -> a table."""

    def listed(self, table: Tensor) -> Tensor:
        """A table -> [L, T, C]."""

    def flat(self, x: Tensor) -> Tensor:
        """Features -> a view with a single axis of positions."""

    def sums(self, values: Tensor) -> Tensor:
        """Sums of flat values over each level and all images: a table."""

    def spread(self, table: Tensor) -> Tensor:
        """A table -> flat values: at each position the value of its level, and 0 at border positions."""


@dataclass(frozen=True)
class OnCanvas:
    """Features [B, T * C, height, width]; tables [T * C, L]."""

    canvas: Canvas
    batch: int
    device: torch.device

    @property
    def counts(self) -> tuple[int, ...]:
        """See :class:`Layout`."""
        return tuple(self.batch * rows * columns for rows, columns in self.canvas.sizes)

    def column(self, values: tuple[float, ...]) -> Tensor:
        """[L]."""
        return _numbers(values, self.device)

    def table(self, values: Tensor) -> Tensor:
        """[L, T * C] -> [T * C, L]."""
        return values.t()

    def listed(self, table: Tensor) -> Tensor:
        """[T * C, L] -> [L, T, C]."""
        return table.t().unflatten(1, (2, -1))

    def flat(self, x: Tensor) -> Tensor:
        """[B, T * C, height, width] -> [B, T * C, N]."""
        return x.flatten(2)

    def sums(self, values: Tensor) -> Tensor:
        """[B, T * C, N] -> [T * C, L]."""
        levels = level_rows(self.canvas, self.device)
        return torch.mm(values.flatten(0, 1), levels.t()).unflatten(0, values.shape[:2]).sum(0)

    def spread(self, table: Tensor) -> Tensor:
        """[T * C, L] -> [T * C, N]."""
        return torch.mm(table, level_rows(self.canvas, self.device))


@dataclass(frozen=True)
class InRows:
    """Features [T, M, C]; tables [T, L, C]."""

    sizes: Sizes
    batch: int
    device: torch.device

    @property
    def counts(self) -> tuple[int, ...]:
        """See :class:`Layout`."""
        return tuple(self.batch * rows * columns for rows, columns in self.sizes)

    def column(self, values: tuple[float, ...]) -> Tensor:
        """[L, 1]."""
        return _numbers(values, self.device).unsqueeze(1)

    def table(self, values: Tensor) -> Tensor:
        """[L, T * C] -> [T, L, C]."""
        return values.unflatten(1, (2, -1)).transpose(0, 1)

    def listed(self, table: Tensor) -> Tensor:
        """[T, L, C] -> [L, T, C]."""
        return table.transpose(0, 1)

    def flat(self, x: Tensor) -> Tensor:
        """[T, M, C], unchanged."""
        return x

    def sums(self, values: Tensor) -> Tensor:
        """[T, M, C] -> [T, L, C]."""
        return torch.matmul(level_membership(self.sizes, self.batch, self.device), values)

    def spread(self, table: Tensor) -> Tensor:
        """[T, L, C] -> [T, M, C]."""
        return table.index_select(1, level_of(self.sizes, self.batch, self.device))


def level_norm_relu(x: Tensor, towers: Sequence[LevelNorm], layout: Layout, first: int = 0) -> Tensor:
    """relu(norm(x)) of the features of two towers, with statistics per level; updates running statistics in training.

    Args:
        x: features in the order of the layout.
        towers: the norm of each tower; :func:`obstacle` is None for them.
        first: index of the first level.
    """
    counts = layout.counts
    levels = range(first, first + len(counts))
    norms = towers[0].norms
    live = tuple(_uses_batch(norms[level], count) for level, count in zip(levels, counts, strict=True))
    affine = [tower.affine_of(level) for level in levels for tower in towers]
    weight, bias = (layout.table(_by_level([pair[part] for pair in affine], len(levels))) for part in (0, 1))
    fixed = None
    if not all(live):
        mean, variance = (_running(towers, levels, name) for name in ("running_mean", "running_var"))
        fixed = Fixed(layout.table(mean), layout.table(variance), layout.column(tuple(map(float, live))))
    y, mean, variance = _LevelBatchNormReLU.apply(x, weight, bias, layout, norms[0].eps, fixed)
    if any(live) and norms[first].running_mean is not None:
        _update_running(towers, levels, layout, mean, variance, live)
    return y


def obstacle(one: LevelNorm, other: LevelNorm) -> str | None:
    """Why the norms of two towers cannot run together; None if they can."""
    settings = [
        (
            type(norm),
            norm.shared_affine,
            *((part.eps, part.momentum, part.training, part.running_mean is None) for part in norm.norms),
        )
        for norm in (one, other)
    ]
    if settings[0] != settings[1] or len({part.eps for part in one.norms}) != 1:
        return "towers of different norms"
    if isinstance(one[0], nn.SyncBatchNorm):
        return "BatchNorm with statistics of all ranks (SyncBN)"
    return "BatchNorm without weight and bias" if one.norms[0].weight is None else None


class Fixed(NamedTuple):
    """Tables of running statistics, which normalise the levels whose entry in the column ``live`` is 0."""

    mean: Tensor
    variance: Tensor
    live: Tensor


def _uses_batch(norm: _BatchNorm, count: int) -> bool:
    """Whether the statistics are those of the batch, as decided by the layer and, for one value per channel, by
    :class:`LevelNorm`."""
    return (norm.training or norm.running_mean is None) and has_batch_statistics(norm, count)


def _running(towers: Sequence[LevelNorm], levels: range, name: str) -> Tensor:
    """[L, T * C] of one of the running statistics."""
    return _by_level([getattr(tower[level], name) for level in levels for tower in towers], len(levels))


def _by_level(values: Sequence[Tensor | None], levels: int) -> Tensor:
    """[C] of each tower, level by level -> [L, T * C]. No value is None where :func:`obstacle` is None."""
    return torch.cat([value for value in values if value is not None]).unflatten(0, (levels, -1))


@torch.no_grad()
def _update_running(
    towers: Sequence[LevelNorm], levels: range, layout: Layout, mean: Tensor, variance: Tensor, live: tuple[bool, ...]
) -> None:
    """Update running statistics and counters of the levels that were normalised with statistics of the batch."""
    bessel = tuple(count / max(count - 1, 1) for count in layout.counts)
    variance = variance * layout.column(bessel)
    norms = [tower.norms[level] for level, used in zip(levels, live, strict=True) for tower in towers if used]
    torch._foreach_add_([norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None], 1)
    for name, table in (("running_mean", mean), ("running_var", variance)):
        new = [row for level, used in zip(layout.listed(table), live, strict=True) if used for row in level]
        old = [getattr(norm, name) for norm in norms]
        momentum = norms[0].momentum
        if momentum is None:  # the mean of all batches so far
            for norm, values, others in zip(norms, old, new, strict=True):
                assert norm.num_batches_tracked is not None  # as there are running statistics
                values.lerp_(others, 1.0 / norm.num_batches_tracked.to(values.dtype))
        else:
            torch._foreach_mul_(old, 1 - momentum)
            torch._foreach_add_(old, new, alpha=momentum)


@lru_cache(maxsize=64)
def _numbers(values: tuple[float, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.cat([torch.full((1,), value, device=device) for value in values])  # avoids a copy from the host


class _LevelBatchNormReLU(torch.autograd.Function):
    """BatchNorm (arXiv 1502.03167) with statistics per level over all images, then ReLU; 0 at border positions.
    Computes in f32."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, layout: Layout, eps: float, fixed: Fixed | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x in the order of the layout, weight and bias as tables -> y like x; mean and biased variance as tables."""
        share = layout.column(tuple(1.0 / count for count in layout.counts))
        with torch.autocast(x.device.type, enabled=False):
            wide = layout.flat(x).float()
            mean = layout.sums(wide) * share
            mean = mean if fixed is None else torch.where(fixed.live > 0, mean, fixed.mean.float())
            centred = wide - layout.spread(mean)
            variance = layout.sums(centred * centred) * share
            variance = variance if fixed is None else torch.where(fixed.live > 0, variance, fixed.variance.float())
            rstd = torch.rsqrt(variance + eps)
            scale = layout.spread(rstd * weight.float())
            y = torch.addcmul(layout.spread(bias.float()), centred, scale).relu_().view(x.shape).to(x.dtype)
        ctx.save_for_backward(centred, rstd, scale, y, weight)
        ctx.layout, ctx.share = layout, share if fixed is None else share * fixed.live
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight and bias."""
        centred, rstd, scale, y, weight = ctx.saved_tensors
        layout = ctx.layout
        grad = layout.flat(torch.ops.aten.threshold_backward(grad, y, 0)).float()
        by_bias, by_weight = layout.sums(grad), layout.sums(grad * centred) * rstd
        factor = rstd * weight.float() * -ctx.share  # 0 for levels with running statistics, which are constants
        by_one, by_x = layout.spread(factor * by_bias), layout.spread(factor * by_weight * rstd)
        by_input = torch.addcmul(by_one, centred, by_x).addcmul_(grad, scale)
        by_weight, by_bias = by_weight.to(weight.dtype), by_bias.to(weight.dtype)
        return by_input.view(y.shape).to(y.dtype), by_weight, by_bias, None, None, None
