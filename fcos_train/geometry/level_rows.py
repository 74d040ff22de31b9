"""Maps of a feature pyramid as the rows of one matrix: the neighbours of each row, and the level it belongs to.

Rows are ordered by image; within an image, by the order of :class:`fcos_train.geometry.points.PointGrid`.
Shape symbols: B images, L levels, Q points per image, M = B * Q rows, S = B * L segments (one per image and level).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from fcos_train.geometry.points import Sizes, point_rows


def rows_of(maps: Sequence[Tensor]) -> Tensor:
    """Maps [B, C, H, W] -> [M, C]."""
    return point_rows(maps).flatten(0, 1)


@lru_cache(maxsize=64)
def neighbours(sizes: Sizes, batch: int, device: torch.device) -> Tensor:
    """[M * 9] i64: the 3x3 neighbourhood of each row, in row-major order; M for positions outside the map.

    Args:
        sizes: (rows, columns) of each map.
    """
    with torch.inference_mode(False), torch.no_grad():
        pieces, first = [], 0
        points = sum(rows * columns for rows, columns in sizes)
        outside = batch * points
        for rows, columns in sizes:
            own = torch.arange(first, first + rows * columns).view(rows, columns)
            images = torch.arange(batch).view(-1, 1, 1) * points + own  # [B, rows, columns]
            framed = F.pad(images, (1, 1, 1, 1), value=outside)
            pieces.append(framed.unfold(1, 3, 1).unfold(2, 3, 1).reshape(batch, rows * columns, 9))
            first += rows * columns
        return torch.cat(pieces, dim=1).flatten().to(device)


@lru_cache(maxsize=64)
def mirrored(sizes: Sizes, batch: int, device: torch.device) -> Tensor:
    """:func:`neighbours` with the nine indices of each row reversed."""
    with torch.inference_mode(False), torch.no_grad():
        return neighbours(sizes, batch, device).view(-1, 9).flip(1).flatten()


@lru_cache(maxsize=64)
def segment_of(sizes: Sizes, batch: int, device: torch.device) -> Tensor:
    """[M] i64: b * L + l for a row of image b on level l."""
    with torch.inference_mode(False), torch.no_grad():
        counts = torch.tensor([rows * columns for rows, columns in sizes] * batch)
        return torch.arange(len(counts)).repeat_interleave(counts).to(device)


@lru_cache(maxsize=64)
def membership(sizes: Sizes, batch: int, device: torch.device) -> Tensor:
    """[S, M] f32, 1 where the row belongs to the segment. It @ [M, C] -> [S, C], the sums over each segment."""
    with torch.inference_mode(False), torch.no_grad():
        return F.one_hot(segment_of(sizes, batch, device)).t().float().contiguous()


@lru_cache(maxsize=64)
def points_of_segments(sizes: Sizes, batch: int, device: torch.device) -> Tensor:
    """[S, 1] f32: the number of rows in each segment."""
    with torch.inference_mode(False), torch.no_grad():
        return membership(sizes, batch, device).sum(1, keepdim=True)


@lru_cache(maxsize=64)
def level_of(sizes: Sizes, batch: int, device: torch.device) -> Tensor:
    """[M] i64: the level of each row."""
    with torch.inference_mode(False), torch.no_grad():
        return segment_of(sizes, batch, device) % len(sizes)


@lru_cache(maxsize=64)
def level_membership(sizes: Sizes, batch: int, device: torch.device) -> Tensor:
    """[L, M] f32, 1 where the row belongs to the level, in any image."""
    with torch.inference_mode(False), torch.no_grad():
        return membership(sizes, batch, device).view(batch, len(sizes), -1).sum(0)
