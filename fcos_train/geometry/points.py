"""The points of a feature pyramid, merged over the levels and over the two axes.

Letters in all of this package: B images, L levels, P points of all levels (row by row, fine level first),
S = sum over the levels of (columns + rows), G padded objects of an image, C classes.

A point (x, y) lies at one of the S axis positions in x and at one in y. Conditions on a pair (point, object)
which are conjunctions over the two axes are therefore decided on [B, S, G] and merely combined on [B, P, G]:
for 800x1344 pixels P is 22,400 and S is 521.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Sizes = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class LevelSpec:
    """What the points of a pyramid depend on beside the map sizes.

    Args:
        strides: pixels from a point to the next, one for each level.
        offset: place of the first point, in strides (0.5: cell centres, FCOS; 0: cell corners, mmdet's anchors).
        ranges: for each level the closed interval of the largest side distance that it regresses, in px, or None.
        radius: half side of the centre sampling square in strides, or None for the whole box.
    """

    strides: tuple[int, ...]
    offset: float = 0.5
    ranges: tuple[tuple[float, float], ...] | None = None
    radius: float | None = None


@dataclass(frozen=True)
class PointGrid:
    """Constant tensors of one set of map sizes on one device.

    Attributes:
        xy: [2, P] f32, point positions in px.
        stride: [P] f32, px.
        level: [P] i64.
        first: for each level the index of its first point, and P at the end.
        axis: [S] i64, 0 where the position is an x, 1 where it is a y.
        position: [S] f32, px.
        axis_stride: [S] f32, px.
        low, high: [S] f32, the range of the level in px (without limits where the spec has none).
        reach: [S] f32, stride times radius in px, or None.
        column, row: [P] i64, index into S of the x and of the y of a point.
        real: None, or [P] f32: 0 for points of a canvas's border (:mod:`fcos_train.geometry.level_canvas`), which are none.
    """

    xy: Tensor
    stride: Tensor
    level: Tensor
    first: tuple[int, ...]
    axis: Tensor
    position: Tensor
    axis_stride: Tensor
    low: Tensor
    high: Tensor
    reach: Tensor | None
    column: Tensor
    row: Tensor
    real: Tensor | None = None

    @property
    def num_points(self) -> int:
        return self.xy.shape[1]

    @property
    def num_levels(self) -> int:
        return len(self.first) - 1


_cache: dict[tuple, PointGrid] = {}
_CACHE_LIMIT = 64


def point_grid(sizes: Sizes, spec: LevelSpec, device: torch.device) -> PointGrid:
    """The grid for maps of ``sizes`` ((rows, columns) for each level), made once for each (sizes, spec, device).

    Raises:
        ValueError: the spec does not name as many levels as there are maps.
    """
    key = (sizes, spec.strides, spec.offset, spec.ranges, spec.radius, device.type, device.index)
    grid = _cache.get(key)
    if grid is not None:
        return grid
    if torch.compiler.is_compiling():  # a tensor born inside a traced graph must not outlive it
        return _build(sizes, spec, device)
    with torch.inference_mode(False), torch.no_grad():
        grid = _build(sizes, spec, device)
    if len(_cache) >= _CACHE_LIMIT:
        _cache.pop(next(iter(_cache)))
    _cache[key] = grid
    return grid


def _build(sizes: Sizes, spec: LevelSpec, device: torch.device) -> PointGrid:
    if len(sizes) != len(spec.strides):
        raise ValueError(f"{len(sizes)} feature maps for {len(spec.strides)} strides")
    columns = sum(width for _, width in sizes)
    parts: dict[str, list[Tensor]] = {name: [] for name in ("x", "y", "column", "row", "level", "stride")}
    first, column, row = [0], 0, columns
    along: list[list[Tensor]] = [[], []]
    for level, ((height, width), stride) in enumerate(zip(sizes, spec.strides, strict=True)):
        xs = (torch.arange(width, device=device, dtype=torch.float32) + spec.offset) * stride
        ys = (torch.arange(height, device=device, dtype=torch.float32) + spec.offset) * stride
        along[0].append(xs)
        along[1].append(ys)
        parts["x"].append(xs.repeat(height))
        parts["y"].append(ys.repeat_interleave(width))
        parts["column"].append(torch.arange(column, column + width, device=device).repeat(height))
        parts["row"].append(torch.arange(row, row + height, device=device).repeat_interleave(width))
        parts["level"].append(torch.full((height * width,), level, device=device, dtype=torch.int64))
        parts["stride"].append(torch.full((height * width,), float(stride), device=device))
        first.append(first[-1] + height * width)
        column, row = column + width, row + height
    merged = {name: torch.cat(tensors) for name, tensors in parts.items()}
    lengths = [width for _, width in sizes] + [height for height, _ in sizes]

    def spread(values: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
        """One value for each (axis, level) -> [S]."""
        pieces = zip(lengths, values, strict=True)
        return torch.cat([torch.full((n,), v, device=device, dtype=dtype) for n, v in pieces])

    levels = len(sizes)
    limit = torch.finfo(torch.float32).max
    ranges = spec.ranges or ((-limit, limit),) * levels
    return PointGrid(
        xy=torch.stack((merged["x"], merged["y"])),
        stride=merged["stride"],
        level=merged["level"],
        first=tuple(first),
        axis=spread([0] * levels + [1] * levels, torch.int64),
        position=torch.cat(along[0] + along[1]),
        axis_stride=spread([float(s) for s in spec.strides] * 2),
        low=spread([max(float(low), -limit) for low, _ in ranges] * 2),
        high=spread([min(float(high), limit) for _, high in ranges] * 2),
        reach=None if spec.radius is None else spread([stride * spec.radius for stride in spec.strides] * 2),
        column=merged["column"],
        row=merged["row"],
    )


def point_rows(maps: Sequence[Tensor]) -> Tensor:
    """Maps [B, K, H, W] of all levels -> [B, P, K]."""
    return torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in maps], dim=1)


def merge_levels(maps: Sequence[Tensor]) -> Tensor:
    """Maps [B, K, H, W] of all levels -> [B, K, P], in one copy that keeps the memory order of the maps.

    From channels_last maps the result is a transposed view of a contiguous [B, P, K].
    """
    head = maps[0]
    dense_channels = head.shape[1] > 1 and head.is_contiguous(memory_format=torch.channels_last)
    if dense_channels and not head.is_contiguous():
        return point_rows(maps).transpose(1, 2)
    return torch.cat([level.flatten(2) for level in maps], dim=2)
