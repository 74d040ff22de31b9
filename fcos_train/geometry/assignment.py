"""Which object each point of a pyramid learns, for a whole batch, with shapes that know nothing of the data.

Letters as in :mod:`fcos_train.geometry.points`. Objects first get a rank 1..G of preference ([B, G] only); the winner
of a point is then the admissible object of the highest rank, a plain maximum over one-byte numbers. Objects are
taken in slices of at most ``MAX_PAIRS`` pairs (point, object), which changes memory, not results.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fcos_train.geometry.boxes import area, scale_boxes, valid_objects
from fcos_train.geometry.points import PointGrid

MAX_PAIRS = 1 << 26  # 64 MB for each one-byte tensor, of which about four live at once


@dataclass(frozen=True)
class FcosTargets:
    """labels [B, P] i64 (``num_classes`` = background), foreground [B, P] bool, distances [B, 2, 2, P] f32.

    Distances are (near, far) x (x, y) from the point to the sides of its box, in px or in strides; 1 where background.
    """

    labels: Tensor
    foreground: Tensor
    distances: Tensor


@dataclass(frozen=True)
class FsafTargets:
    """Targets before the choice of levels.

    labels [B, P] i64 (``num_classes`` = background), foreground [B, P] bool, counted [B, P] bool (false: the point
    has no part in the loss), silenced [B, C, P] bool (false negatives that must not be punished),
    objects [B, P] i64 (0..G-1: a name for the object within its image, meaningless where background),
    distances as in :class:`FcosTargets`, px.
    """

    labels: Tensor
    foreground: Tensor
    counted: Tensor
    silenced: Tensor
    objects: Tensor
    distances: Tensor


def _rank_dtype(device: torch.device, objects: int) -> torch.dtype:
    """CPU and CUDA gain from narrow pairs; an NPU's vector unit has no such arithmetic."""
    if device.type not in ("cpu", "cuda"):
        return torch.float32
    return torch.uint8 if objects < 256 else torch.int16


def _slices(pairs_of_one: int, objects: int) -> list[slice]:
    step = max(1, MAX_PAIRS // max(1, pairs_of_one))
    return [slice(start, min(start + step, objects)) for start in range(0, objects, step)]


def _rank_objects(boxes: Tensor, valid: Tensor, ties_to_last: bool) -> tuple[Tensor, Tensor]:
    """Order and ranks of the objects of each image, small boxes preferred.

    Returns:
        order [B, G] i64, the preferred object first; ranks [B, 1, G], G for the preferred object down to 1, 0 for
        padding. Among equal areas the first object is preferred, or with ``ties_to_last`` the last.
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
    """[B, P] highest ranks (0: none) -> [B, P] i64 objects; meaningless where there is none."""
    objects = order.shape[1]
    return order.gather(1, (objects - best.long()).clamp(max=objects - 1))


def _sides(grid: PointGrid, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Near and far edge of every box on the axis of every axis position: two of [B, S, G]."""
    edges = boxes.transpose(1, 2)  # [B, 4, G]
    return edges[:, :2].index_select(1, grid.axis), edges[:, 2:].index_select(1, grid.axis)


def _winner_distances(
    grid: PointGrid, boxes: Tensor, winner: Tensor, background: Tensor, scale: Tensor | None
) -> Tensor:
    """[B, P] winners among [B, G, 4] boxes -> [B, 2, 2, P] distances, 1 where there is no winner."""
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

    A point takes the smallest box that contains it (with centre sampling: whose central square, cut by the box,
    contains it) and whose largest side distance lies in the range of the level. Equal areas: the first object.

    Args:
        grid: points with ``low``, ``high`` and ``reach``.
        boxes: [B, G, 4] f32 xyxy px, padded. labels: [B, G] i64. count: [B] i64, valid objects of each image.
        num_classes: C, the label of the background.
        in_strides: give distances divided by the stride of the level (``norm_on_bbox``).
    """
    order, ranks = _rank_objects(boxes, valid_objects(count, boxes.shape[1]), ties_to_last=False)
    best = None
    for part in _slices(boxes.shape[0] * grid.num_points, boxes.shape[1]):
        found = (_fcos_fits(grid, boxes[:, part]) * ranks[:, :, part]).amax(2)
        best = found if best is None else torch.maximum(best, found)
    background, winner = best == 0, _winner(best, order)
    chosen_labels = labels.gather(1, winner).masked_fill_(background, num_classes)
    distances = _winner_distances(grid, boxes, winner, background, grid.stride if in_strides else None)
    return FcosTargets(chosen_labels, best > 0, distances)


def _fcos_fits(grid: PointGrid, boxes: Tensor) -> Tensor:
    """[B, P, g] bool: the object is admissible at the point.

    On each axis an object is 2: outside or beyond the range, 1: admissible and above the lower limit, or
    0: admissible but below it. It fits a point if the larger of the two codes is 1.
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
    more than ``least_cover`` of the cell lies in the box shrunk by ``positive``; the smallest box wins, equal areas:
    the last object. Cells in the box shrunk by ``negative`` which are not claimed, and cells claimed in vain, are
    silent for the class of that object. A claimed cell that is also silent for its own class becomes background,
    unless ``foreground_first``.

    Args:
        grid: points at ``offset`` 0. boxes, labels, count, num_classes: as in :func:`fcos_targets`.
        counted: [B, P] bool, points that take part (None: all).
        ignore: padded regions ([B, I, 4], [B] count) whose inner part, shrunk by ``ignore_scale``, has no loss.
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
    winner = _winner(best, order)
    own = labels.gather(1, winner)
    # the winner votes once for its own class; another vote there is another object of the same class
    rivals = votes.gather(1, own.unsqueeze(1)).squeeze(1) > 1.5
    foreground = (best > 0) & counted
    if not foreground_first:
        foreground = foreground & ~rivals
    background = ~foreground
    return FsafTargets(
        labels=own.masked_fill_(background, num_classes),
        foreground=foreground,
        counted=counted,
        silenced=votes > 0.5,
        objects=winner,
        distances=_winner_distances(grid, boxes, winner, background, None),
    )


def _in_any(grid: PointGrid, boxes: Tensor, count: Tensor) -> Tensor:
    """[B, P] bool: the point lies strictly inside one of the valid boxes."""
    near, far = _sides(grid, boxes)
    inside = torch.minimum(grid.position[:, None] - near, far - grid.position[:, None]) > 0
    inside = inside & valid_objects(count, boxes.shape[1]).unsqueeze(1)
    return (inside.index_select(1, grid.column) & inside.index_select(1, grid.row)).any(2)


def _fsaf_pairs(
    grid: PointGrid, boxes: Tensor, valid: Tensor, positive: float, negative: float, least_cover: float
) -> tuple[Tensor, Tensor]:
    """Two of [B, P, g] bool: the object claims the cell; it claims it or has it in its silent region."""
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
