"""All that a dense head may know of the fast paths: how to run its two towers over the levels of a pyramid.

There are three ways with the same result, and :func:`run` chooses one:

* level by level, by the ``forward`` of the head;
* small levels as rows of one matrix (:mod:`.towers_as_rows`), on a CPU, where launch overhead dominates on small maps;
* all levels on one canvas (:mod:`.towers_on_canvas`), on devices that compute faster than the host launches.

Symbols as in :mod:`fcos_train.geometry.points`: B images, P points, K channels of a prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn

from fcos_train.geometry.level_canvas import canvas_grid, canvas_of
from fcos_train.geometry.points import LevelSpec, PointGrid, flatten_levels
from fcos_train.models.fast import merged_norm
from fcos_train.models.fast.cpu_conv import SMALL_MAP, QuickConv2d, has_hooks, is_quick_map, shared_casts
from fcos_train.models.fast.towers_as_rows import run_as_rows
from fcos_train.models.fast.towers_on_canvas import run_on_canvas
from fcos_train.models.level_norm import LevelNorm

Convolve = Callable[[nn.Conv2d, Tensor], Tensor]
Outputs = tuple[PointGrid, tuple[Tensor, ...]]
PLAIN_3X3 = ((3, 3), (1, 1), (1, 1), (1, 1), 1)  # kernel, stride, padding, dilation, groups


class TowerHead(Protocol):
    """What :func:`run` uses of a head; :class:`fcos_train.models.padded_head.FixedShapeHead` has it."""

    training: bool
    merge_levels: bool
    level_spec: LevelSpec
    cls_convs: Any
    reg_convs: Any

    def __call__(self, x: Sequence[Tensor]) -> Sequence[Sequence[Tensor]]:
        """Maps [B, C, H, W] of each level -> for each prediction its maps [B, K, H, W] of each level."""

    def grid(self, sizes: Sequence[Sequence[int]], device: torch.device) -> PointGrid:
        """The points of maps of these (rows, columns)."""

    def predictions(self, level: Tensor, convolve: Convolve, cls_feat: Tensor, reg_feat: Tensor) -> tuple[Tensor, ...]:
        """What ``forward`` does after the towers."""


def can_merge(first: Sequence[nn.Module], second: Sequence[nn.Module]) -> bool:
    """Whether these two towers can run over several levels at once."""
    return obstacle(first, second) is None


def run(head: TowerHead, x: Sequence[Tensor]) -> Outputs:
    """Towers and prediction layers over all levels, in the fastest way that applies.

    Args:
        head: with ``merge_levels`` set only if :func:`can_merge` its towers.
        x: maps [B, C, H, W] of each level.
    Returns:
        the points, and each prediction [B, K, P] at these points.
    """
    if head.merge_levels and head.training:
        return _on_canvas(head, x)
    with shared_casts():
        first = first_in_rows(head, x)
        return by_levels(head, head(x)) if first is None else _with_rows(head, x, first)


def by_levels(head: TowerHead, outs: Sequence[Sequence[Tensor]]) -> Outputs:
    """What ``forward`` returns, maps [B, K, H, W] of each level of each prediction -> what :func:`run` returns."""
    grid = head.grid([level.shape[-2:] for level in outs[0]], outs[0][0].device)
    return grid, tuple(flatten_levels(maps) for maps in outs)


def first_in_rows(head: TowerHead, x: Sequence[Tensor]) -> int | None:
    """The first level from which on running levels as rows is faster; None if that holds for no level."""
    small = [level.shape[2] * level.shape[3] <= SMALL_MAP for level in x]
    if not (head.training and small[-1] and is_quick_map(x[0])) or not can_merge(head.cls_convs, head.reg_convs):
        return None
    return max((index + 1 for index, fits in enumerate(small) if not fits), default=0)


def _with_rows(head: TowerHead, x: Sequence[Tensor], first: int) -> Outputs:
    """The levels before ``first`` level by level, the others as rows."""
    grid = head.grid([level.shape[-2:] for level in x], x[0].device)
    rows, features = run_as_rows(x[first:], head.cls_convs, head.reg_convs, first)
    small = head.predictions(grid.level[grid.first[first] :], rows.predict, *features)
    large: Sequence[Sequence[Tensor]] = head(x[:first]) if first else [()] * len(small)
    return grid, tuple(flatten_levels([*maps, part.unsqueeze(3)]) for maps, part in zip(large, small, strict=True))


def _on_canvas(head: TowerHead, x: Sequence[Tensor]) -> Outputs:
    """All levels at once; the points are those of the canvas, border included."""
    canvas = canvas_of(tuple((int(level.shape[2]), int(level.shape[3])) for level in x))
    grid = canvas_grid(canvas, head.level_spec, x[0].device)
    features = run_on_canvas(canvas, x, head.cls_convs, head.reg_convs)
    return grid, head.predictions(grid.level, lambda layer, feature: layer(feature).flatten(2), *features)


def obstacle(first: Sequence[nn.Module], second: Sequence[nn.Module]) -> str | None:
    """Why these two towers cannot run over several levels at once; None if they can."""
    if len(first) != len(second) or not len(first):
        return "towers of different length"
    for one, other in zip(first, second, strict=True):
        reason = _obstacle_of_layer(one) or _obstacle_of_layer(other) or _difference(one, other)
        if reason is not None:
            return reason
    return None


def _obstacle_of_layer(layer: nn.Module) -> str | None:
    if not isinstance(layer, ConvModule):
        return f"a layer {type(layer).__name__} in a tower"
    if layer._forward_hooks or layer._forward_pre_hooks or has_hooks(layer):
        return "a hook on a layer of a tower"
    conv = layer.conv
    if type(conv) not in (nn.Conv2d, QuickConv2d) or layer.order != ("conv", "norm", "act"):
        return f"a layer {type(conv).__name__} in a tower"
    if (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups) != PLAIN_3X3:
        return "a convolution in a tower that is not plain 3x3"
    if conv.padding_mode != "zeros" or layer.with_explicit_padding or layer.with_spectral_norm:
        return "a convolution in a tower with padding or normalisation of its own"
    if not (layer.with_activation and isinstance(layer.activate, nn.ReLU)):
        return "an activation other than ReLU"
    norm = layer.norm if layer.with_norm else None
    if norm is None or isinstance(norm, LevelNorm) or (isinstance(norm, nn.GroupNorm) and norm.affine):
        return None
    return f"a norm that is neither GroupNorm nor BatchNorm per level ({type(norm).__name__})"


def _difference(one: ConvModule, other: ConvModule) -> str | None:
    """Why two layers that are at the same place in their towers cannot be one layer."""
    if one.with_norm != other.with_norm or (one.conv.bias is None) != (other.conv.bias is None):
        return "towers of different kinds"
    reason = _difference_of_norms(one.norm, other.norm) if one.with_norm else None
    if reason is None and one.conv.weight.shape != other.conv.weight.shape:
        return "towers of different width"
    return reason


def _difference_of_norms(one: nn.Module, other: nn.Module) -> str | None:
    if isinstance(one, LevelNorm) and isinstance(other, LevelNorm) and type(one) is type(other):
        return merged_norm.obstacle(one, other)
    if isinstance(one, nn.GroupNorm) and isinstance(other, nn.GroupNorm) and type(one) is type(other):
        return None if (one.num_groups, one.eps) == (other.num_groups, other.eps) else "towers of different norms"
    return "towers of different norms"
