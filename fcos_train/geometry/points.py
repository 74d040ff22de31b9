"""The points of a feature pyramid, merged over the levels and over the two axes.

Shape symbols of this package: B images, L levels, P points of all levels (row by row, finest level first),
S = sum over the levels of (columns + rows), G padded objects per image, C classes.

A point (x, y) has one of the S axis positions as its x and another as its y. A condition on a pair (point, object) that
is a conjunction over the two axes is therefore evaluated on [B, S, G] and only combined on [B, P, G]: for 800x1344
pixels P is 22,400 and S is 521.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Sizes = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class LevelSpec:
    """What the points of a pyramid depend on, apart from the map sizes.

    Args:
        strides: distance between neighbouring points in px, one per level.
        offset: position of the first point in strides (0.5: cell centres, as in FCOS; 0: cell corners, as mmdet's
            anchors).
        ranges: for each level, the closed interval of the largest side distance that it regresses, in px; or None.
        radius: half the side of the centre sampling square in strides, or None for the whole box.
    """

    strides: tuple[int, ...]
    offset: float = 0.5
    ranges: tuple[tuple[float, float], ...] | None = None
    radius: float | None = None


@dataclass(frozen=True)
class PointGrid:
    """The points for one set of map sizes on one device, as constant tensors.

    Attributes:
        xy: [2, P] f32, point positions in px.
        stride: [P] f32, px.
        level: [P] i64.
        first: index of the first point of each level, followed by P.
        axis: [S] i64, 0 for positions along x, 1 for positions along y.
        position: [S] f32, px.
        axis_stride: [S] f32, px.
        low, high: [S] f32, the range of the level in px (unlimited if the spec has no ranges).
        reach: [S] f32, stride times radius in px, or None.
        column, row: [P] i64, indices into S of a point's x and y.
        real: None, or [P] f32: 0 for border positions of a canvas, which are not real points
            (:mod:`fcos_train.geometry.level_canvas`).
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
        """P."""
        return self.xy.shape[1]

    @property
    def num_levels(self) -> int:
        """L."""
        return len(self.first) - 1


_cache: dict[tuple, PointGrid] = {}
_CACHE_LIMIT = 64


def point_grid(sizes: Sizes, spec: LevelSpec, device: torch.device) -> PointGrid:
    """The grid for maps of ``sizes``, (rows, columns) of each level; cached by (sizes, spec, device).

    Raises:
        ValueError: the number of maps differs from the number of strides in the spec.
    """
    key = (sizes, spec.strides, spec.offset, spec.ranges, spec.radius, device.type, device.index)
    grid = _cache.get(key)
    if grid is not None:
        return grid
    if torch.compiler.is_compiling():  # a tensor created inside a traced graph must not outlive it
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
        """One value per (axis, level) -> [S]."""
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


def flatten_levels(maps: Sequence[Tensor]) -> Tensor:
    """Maps [B, K, H, W] of all levels -> [B, K, P], in one copy that keeps the memory format of the maps.

    For channels_last maps the result is a transposed view of a contiguous [B, P, K].
    """
    head = maps[0]
    dense_channels = head.shape[1] > 1 and head.is_contiguous(memory_format=torch.channels_last)
    if dense_channels and not head.is_contiguous():
        return point_rows(maps).transpose(1, 2)
    return torch.cat([level.flatten(2) for level in maps], dim=2)
