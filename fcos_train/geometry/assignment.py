"""Assigns an object or the background to each point of a pyramid, with shapes independent of the data.

Symbols as in :mod:`fcos_train.geometry.points`. Objects are first ranked 1..G by preference ([B, G] only); a point then
takes the admissible object of the highest rank, a plain maximum over one-byte numbers. Objects are processed in slices
of at most ``MAX_PAIRS`` pairs (point, object), which limits memory and does not change results.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fcos_train.geometry.boxes import area, scale_boxes, valid_objects
from fcos_train.geometry.points import PointGrid

MAX_PAIRS = 1 << 26  # 64 MB per one-byte tensor; about four of them are alive at once


@dataclass(frozen=True)
class FcosTargets:
    """Training targets of FCOS.

    Attributes:
        labels: [B, P] i64; ``num_classes`` means background.
        foreground: [B, P] bool.
        distances: [B, 2, 2, P] f32, (near, far) x (x, y) from the point to the sides of its box, in px or in strides;
            1 for background.
    """

    labels: Tensor
    foreground: Tensor
    distances: Tensor


@dataclass(frozen=True)
class FsafTargets:
    """Training targets of FSAF before the online selection of levels.

    Attributes:
        labels: [B, P] i64; ``num_classes`` means background.
        foreground: [B, P] bool.
        counted: [B, P] bool, False for points that are excluded from the loss.
        ignored: [B, C, P] bool, entries without classification loss, unless the class is the point's own.
        objects: [B, P] i64, index 0..G-1 of the object within its image; undefined for background.
        distances: as in :class:`FcosTargets`, in px.
    """

    labels: Tensor
    foreground: Tensor
    counted: Tensor
    ignored: Tensor
    objects: Tensor
    distances: Tensor


def _rank_dtype(device: torch.device, objects: int) -> torch.dtype:
    """CPU and CUDA are faster with narrow integers; the vector unit of an NPU has no arithmetic for them."""
    if device.type not in ("cpu", "cuda"):
        return torch.float32
    return torch.uint8 if objects < 256 else torch.int16


def _slices(pairs_of_one: int, objects: int) -> list[slice]:
    """Slices over the objects, each within ``MAX_PAIRS``; a single object takes ``pairs_of_one`` pairs."""
    step = max(1, MAX_PAIRS // max(1, pairs_of_one))
    return [slice(start, min(start + step, objects)) for start in range(0, objects, step)]


def _rank_objects(boxes: Tensor, valid: Tensor, ties_to_last: bool) -> tuple[Tensor, Tensor]:
    """Rank the objects of each image, small boxes first.

    Returns:
        order [B, G] i64, the preferred object first; ranks [B, 1, G], from G for the preferred object down to 1, and 0
        for padding. Among equal areas the first object is preferred, or the last with ``ties_to_last``.
    """
    if ties_to_last:
        order = area(boxes).sort(dim=1, descending=True, stable=True).indices.flip(1)
    else:
        order = area(boxes).sort(dim=1, stable=True).indices
    objects = boxes.shape[1]
    places = torch.arange(objects, 0, -1, device=boxes.device).expand_as(order)
    ranks = torch.zeros_like(order).scatter_(1, order, places).mul_(valid)
    return order, ranks.to(_rank_dtype(boxes.device, objects)).unsqueeze(1)


def _winner(best: Tensor, order: Tensor) -> Tensor:
    """[B, P] highest ranks (0: no object) -> [B, P] i64 objects; undefined where there is no object."""
    objects = order.shape[1]
    return order.gather(1, (objects - best.long()).clamp(max=objects - 1))


def _sides(grid: PointGrid, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Near and far edge of every box along the axis of every axis position: two tensors [B, S, G]."""
    edges = boxes.transpose(1, 2)  # [B, 4, G]
    return edges[:, :2].index_select(1, grid.axis), edges[:, 2:].index_select(1, grid.axis)


def _winner_distances(
    grid: PointGrid, boxes: Tensor, winner: Tensor, background: Tensor, scale: Tensor | None
) -> Tensor:
    """[B, P] winners among [B, G, 4] boxes -> [B, 2, 2, P] distances, 1 for background."""
    chosen = boxes.transpose(1, 2).gather(2, winner.unsqueeze(1).expand(-1, 4, -1)).unflatten(1, (2, 2))
    distances = torch.stack((grid.xy - chosen[:, 0], chosen[:, 1] - grid.xy), dim=1)
    if scale is not None:
        distances = distances / scale
    return distances.masked_fill_(background[:, None, None], 1.0)


@torch.no_grad()
def fcos_targets(
    grid: PointGrid, boxes: Tensor, labels: Tensor, count: Tensor, num_classes: int, in_strides: bool = False
) -> FcosTargets:
    """FCOS assignment (arXiv 1904.01355, section 3.1; centre sampling as in its journal version).

    A point is assigned the smallest box that contains it and whose largest side distance lies in the range of the
    level. With centre sampling the central square, clipped to the box, must contain the point. Of boxes with equal area
    the first is assigned.

    Args:
        grid: points with ``low``, ``high`` and ``reach``.
        boxes: [B, G, 4] f32 xyxy in px, padded. labels: [B, G] i64. count: [B] i64, valid objects of each image.
        num_classes: C, which is also the label of the background.
        in_strides: divide distances by the stride of the level (``norm_on_bbox``).
    """
    order, ranks = _rank_objects(boxes, valid_objects(count, boxes.shape[1]), ties_to_last=False)
    best = None
    for part in _slices(boxes.shape[0] * grid.num_points, boxes.shape[1]):
        found = (_fcos_fits(grid, boxes[:, part]) * ranks[:, :, part]).amax(2)
        best = found if best is None else torch.maximum(best, found)
    assert best is not None  # a padded batch has places for objects
    background, winner = best == 0, _winner(best, order)
    chosen_labels = labels.gather(1, winner).masked_fill_(background, num_classes)
    distances = _winner_distances(grid, boxes, winner, background, grid.stride if in_strides else None)
    return FcosTargets(chosen_labels, best > 0, distances)


def _fcos_fits(grid: PointGrid, boxes: Tensor) -> Tensor:
    """[B, P, g] bool: whether the object is admissible at the point.

    On each axis an object gets the code 2 (outside, or above the range), 1 (admissible and at least the lower limit) or
    0 (admissible, below the lower limit). It is admissible at a point if the larger of its two codes is 1.
    """
    near, far = _sides(grid, boxes)
    position = grid.position[:, None]
    to_near, to_far = position - near, far - position
    longest = torch.maximum(to_near, to_far)
    if grid.reach is None:
        inside = torch.minimum(to_near, to_far) > 0
    else:
        centre, reach = (near + far) / 2, grid.reach[:, None]
        low, high = torch.maximum(centre - reach, near), torch.minimum(centre + reach, far)
        inside = torch.minimum(position - low, high - position) > 0
    admissible = inside & (longest <= grid.high[:, None])
    above = (longest >= grid.low[:, None]).to(_rank_dtype(boxes.device, 0))
    codes = above.masked_fill_(~admissible, 2)
    return torch.maximum(codes.index_select(1, grid.column), codes.index_select(1, grid.row)) == 1


@torch.no_grad()
def fsaf_targets(
    grid: PointGrid,
    boxes: Tensor,
    labels: Tensor,
    count: Tensor,
    num_classes: int,
    positive: float = 0.2,
    negative: float = 0.2,
    least_cover: float = 0.01,
    foreground_first: bool = False,
    counted: Tensor | None = None,
    ignore: tuple[Tensor, Tensor] | None = None,
    ignore_scale: float = 0.5,
) -> FsafTargets:
    """FSAF's effective and ignored regions on all levels (arXiv 1903.00621, section 3.1; mmdet's CenterRegionAssigner).

    The cell of a point is the square of one stride around it. An object claims a cell whose centre it contains if
    more than ``least_cover`` of the cell lies in the box scaled by ``positive``; the smallest of several boxes gets the
    cell, of equal areas the last. For the class of an object, cells in its box scaled by ``negative`` that it did not
    claim, and cells that it claimed but another object got, are ignored. A claimed cell that is also ignored for its
    own class becomes background, unless ``foreground_first``.

    Args:
        grid: points at ``offset`` 0. boxes, labels, count, num_classes: as in :func:`fcos_targets`.
        counted: [B, P] bool, points included in the loss (None: all).
        ignore: padded regions ([B, I, 4] px, [B] count); points in a region scaled by ``ignore_scale`` have no loss.
    """
    if counted is None:
        counted = torch.ones((boxes.shape[0], grid.num_points), dtype=torch.bool, device=boxes.device)
    if ignore is not None:
        counted = counted & ~_in_any(grid, scale_boxes(ignore[0], ignore_scale), ignore[1])
    valid = valid_objects(count, boxes.shape[1])
    order, ranks = _rank_objects(boxes, valid, ties_to_last=True)
    one_hot = (labels.unsqueeze(1) == torch.arange(num_classes, device=labels.device)[:, None]).float()  # [B, C, G]
    best, votes = None, None
    for part in _slices(4 * boxes.shape[0] * grid.num_points, boxes.shape[1]):  # pairs in float32
        claimed, touched = _fsaf_pairs(grid, boxes[:, part], valid[:, part], positive, negative, least_cover)
        found = (claimed * ranks[:, :, part]).amax(2)
        voted = torch.bmm(one_hot[:, :, part], touched.transpose(1, 2).float())
        best = found if best is None else torch.maximum(best, found)
        votes = voted if votes is None else votes + voted
    assert best is not None and votes is not None  # a padded batch has places for objects
    winner = _winner(best, order)
    own = labels.gather(1, winner)
    # the winner contributes one vote to its own class; a second vote comes from another object of that class
    rivals = votes.gather(1, own.unsqueeze(1)).squeeze(1) > 1.5
    foreground = (best > 0) & counted
    if not foreground_first:
        foreground = foreground & ~rivals
    background = ~foreground
    return FsafTargets(
        labels=own.masked_fill_(background, num_classes),
        foreground=foreground,
        counted=counted,
        ignored=votes > 0.5,
        objects=winner,
        distances=_winner_distances(grid, boxes, winner, background, None),
    )


def _in_any(grid: PointGrid, boxes: Tensor, count: Tensor) -> Tensor:
    """[B, P] bool: whether the point lies strictly inside one of the valid boxes."""
    near, far = _sides(grid, boxes)
    inside = torch.minimum(grid.position[:, None] - near, far - grid.position[:, None]) > 0
    inside = inside & valid_objects(count, boxes.shape[1]).unsqueeze(1)
    return (inside.index_select(1, grid.column) & inside.index_select(1, grid.row)).any(2)


def _fsaf_pairs(
    grid: PointGrid, boxes: Tensor, valid: Tensor, positive: float, negative: float, least_cover: float
) -> tuple[Tensor, Tensor]:
    """Two tensors [B, P, g] bool: the object claims the cell; it claims the cell or its negative region covers it."""
    half = 0.5 * grid.axis_stride[:, None]
    cell_near, cell_far = grid.position[:, None] - half, grid.position[:, None] + half
    least = (least_cover * grid.stride * grid.stride)[:, None]

    def covered(factor: float) -> Tensor:
        near, far = _sides(grid, scale_boxes(boxes, factor))
        overlap = (torch.minimum(cell_far, far) - torch.maximum(cell_near, near)).clamp(min=0)
        return overlap.index_select(1, grid.column) * overlap.index_select(1, grid.row) > least

    near, far = _sides(grid, boxes)
    inside = torch.minimum(grid.position[:, None] - near, far - grid.position[:, None]) > 0
    inside = inside & valid.unsqueeze(1)
    centred = inside.index_select(1, grid.column) & inside.index_select(1, grid.row)
    core = covered(positive)
    claimed = core & centred
    shadow = core if negative == positive else covered(negative)
    return claimed, claimed | (shadow & valid.unsqueeze(1))
