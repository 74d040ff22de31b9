"""The maps of a feature pyramid side by side on one canvas, so that a layer shared by the levels is one convolution.

Maps are separated by one row or column of zeros, the padding that a 3x3 convolution would have added. The border must
be reset to zero after each layer. 800x1344 pixels at strides 8 to 128 need 100x253 positions, of which 88 % are used.

Symbols as in :mod:`fcos_train.geometry.points`; N = height * width positions of the canvas.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from fcos_train.geometry.points import LevelSpec, PointGrid, Sizes, point_grid

_OUTSIDE = -1e6  # px; no object reaches this position


@dataclass(frozen=True)
class Canvas:
    """The position of each map: sizes (rows, columns) and places (top, left), all in positions of the canvas."""

    height: int
    width: int
    sizes: Sizes
    places: Sizes

    def regions(self) -> list[tuple[slice, slice]]:
        """Row slice and column slice of each map."""
        return [
            (slice(top, top + rows), slice(left, left + columns))
            for (rows, columns), (top, left) in zip(self.sizes, self.places, strict=True)
        ]


@lru_cache(maxsize=256)
def canvas_of(sizes: Sizes) -> Canvas:
    """The smaller of two layouts: all other maps right of the largest, or all below it.

    Args:
        sizes: (rows, columns) of each map, the largest first.
    """
    beside = _beside(sizes)
    below = _beside(tuple((columns, rows) for rows, columns in sizes))
    if beside.height * beside.width <= below.height * below.width:
        return beside
    return Canvas(below.width, below.height, sizes, tuple((top, left) for left, top in below.places))


def _beside(sizes: Sizes) -> Canvas:
    """The second map goes to the right of the first, and the rest below it, in rows as wide as the second map."""
    places = [(0, 0)]
    height, width = sizes[0]
    if len(sizes) > 1:
        strip, limit = width + 1, width + 1 + sizes[1][1]
        top, left, shelf = 0, strip, 0
        for rows, columns in sizes[1:]:
            if left > strip and left + columns > limit:
                top, left, shelf = top + shelf + 1, strip, 0
            places.append((top, left))
            height, width, shelf = max(height, top + rows), max(width, left + columns), max(shelf, rows)
            left += columns + 1
    return Canvas(height, width, sizes, tuple(places))


@lru_cache(maxsize=64)
def level_rows(canvas: Canvas, device: torch.device) -> Tensor:
    """[L, N] f32, 1 where the position belongs to the level. [K, L] values @ it -> [K, N], 0 on the border."""
    with torch.inference_mode(False), torch.no_grad():
        rows = torch.zeros(len(canvas.sizes), canvas.height, canvas.width, device=device)
        for level, region in zip(rows, canvas.regions(), strict=True):
            level[region] = 1.0
        return rows.flatten(1)


@lru_cache(maxsize=64)
def inside(canvas: Canvas, device: torch.device) -> Tensor:
    """[N] f32, 1 inside the maps, 0 on the border."""
    with torch.inference_mode(False), torch.no_grad():
        return level_rows(canvas, device).sum(0)


@lru_cache(maxsize=64)
def level_shares(canvas: Canvas, device: torch.device, channels: int) -> Tensor:
    """[L, N] f32: ``level_rows`` / (positions of the level * ``channels``), which turns sums into means."""
    with torch.inference_mode(False), torch.no_grad():
        rows = level_rows(canvas, device)
        return rows / (rows.sum(1, keepdim=True) * channels)


@lru_cache(maxsize=64)
def level_means(canvas: Canvas, device: torch.device, channels: int) -> Tensor:
    """[channels * N, L] f32. [K, channels * N] @ it -> [K, L]: means over the channels and the positions of a level."""
    with torch.inference_mode(False), torch.no_grad():
        return level_shares(canvas, device, channels).t().repeat(channels, 1).contiguous()


@lru_cache(maxsize=64)
def canvas_grid(canvas: Canvas, spec: LevelSpec, device: torch.device) -> PointGrid:
    """The points of a pyramid in the order of its canvas: N of them instead of P.

    ``real`` is 0 for border positions; their coordinates are outside every object.
    """
    with torch.inference_mode(False), torch.no_grad():
        return _on_canvas(canvas, point_grid(canvas.sizes, spec, device))


def _on_canvas(canvas: Canvas, grid: PointGrid) -> PointGrid:
    """Reorder the points; all border positions share one extra point and one extra axis position each in x and y."""
    device, points, positions = grid.xy.device, grid.num_points, len(grid.position)
    place = torch.full((canvas.height, canvas.width), points, device=device)
    for first, (rows, columns), region in zip(grid.first, canvas.sizes, canvas.regions(), strict=False):
        place[region] = torch.arange(first, first + rows * columns, device=device).view(rows, columns)
    place = place.flatten()

    def pick(values: Tensor, border: float) -> Tensor:
        return torch.cat((values, values.new_full((*values.shape[:-1], 1), border)), -1).index_select(-1, place)

    def two_more(values: Tensor, *border: float) -> Tensor:
        return torch.cat((values, *(values.new_full((1,), value) for value in border)))

    return replace(
        grid,
        xy=pick(grid.xy, _OUTSIDE),
        stride=pick(grid.stride, 1.0),
        level=pick(grid.level, 0),
        axis=two_more(grid.axis, 0, 1),
        position=two_more(grid.position, _OUTSIDE, _OUTSIDE),
        axis_stride=two_more(grid.axis_stride, 1.0, 1.0),
        low=two_more(grid.low, 0.0, 0.0),
        high=two_more(grid.high, 0.0, 0.0),
        reach=None if grid.reach is None else two_more(grid.reach, 1.0, 1.0),
        column=pick(grid.column, positions),
        row=pick(grid.row, positions + 1),
        real=(place < points).float(),
    )
