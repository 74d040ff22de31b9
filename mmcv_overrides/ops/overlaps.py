"""Intersection over union of axis-aligned boxes, and of rotated ones with their non-maximum suppression.

The overlap of two rectangles is found from its boundary, by Green's theorem: that part of the sides of A which lies in
B, and that part of the sides of B which lies in A. A rotated box is [x, y, w, h, angle]: its center and size in pixels
and its angle in radians, from the x axis to the y axis.
"""

import torch
from torch import Tensor

from mmcv_overrides.ops.nms import greedy, pairwise_iou

UNION, FOREGROUND = range(2)
# Pairs of rotated boxes at a time: bounds the memory to about 100 MB.
PAIRS = 1 << 16
SMALLEST_AREA = 1e-14
# Sides of A and B on one line would both count as boundary, or neither; B is made smaller by this part, so that A's do
# not. It is far above the error of fp64 and far below the precision of fp32.
SHRINK = 1e-9


def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int) -> None:
    """Write the overlaps of boxes into ``ious``.

    Args:
        bboxes1: [N, 4], x1 y1 x2 y2 in pixels.
        bboxes2: [M, 4]; ``aligned`` needs M = N.
        ious: [N, M], or [N] if ``aligned``; overwritten.
        mode: 0 intersection over union, 1 intersection over the area of the first box.
        aligned: compare each box with the one at the same position only.
        offset: 0 or 1; width is ``x2 - x1 + offset``.
    """
    if mode == UNION and not aligned:
        ious.copy_(pairwise_iou(bboxes1, bboxes2, offset))
        return
    first, second = (bboxes1, bboxes2) if aligned else (bboxes1[:, None], bboxes2[None])
    area = _area(first[..., :2], first[..., 2:], offset)
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    inter = (high - low + offset).clamp(min=0).prod(-1)
    union = area + _area(second[..., :2], second[..., 2:], offset) - inter
    ious.copy_(inter / (union if mode == UNION else area))


def box_iou_rotated(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode_flag: int, aligned: bool) -> None:
    """Write the overlaps of rotated boxes into ``ious``; computed in fp64.

    Args:
        bboxes1: [N, 5].
        bboxes2: [M, 5]; ``aligned`` needs M = N.
        ious: [N * M], or [N] if ``aligned``; overwritten. A box of no area has overlap 0.
        mode_flag: 0 intersection over union, 1 intersection over the area of the first box.
        aligned: compare each box with the one at the same position only.
    """
    first, second = _precise(bboxes1), _precise(bboxes2)
    if aligned:
        place = torch.arange(len(first), device=first.device)
        result = _overlaps_of_pairs(first, second, place, place, mode_flag)
    else:
        result = _overlaps(first, second, mode_flag).flatten()
    ious.copy_(result)


def nms_rotated(
    dets: Tensor,
    scores: Tensor,
    order: Tensor,
    dets_sorted: Tensor,
    labels: Tensor,
    iou_threshold: float,
    multi_label: int,
) -> Tensor:
    """Greedy non-maximum suppression of rotated boxes.

    Args:
        dets: [N, 5] or more columns.
        scores: [N].
        order: unused; torch's sort of the scores is repeated here, because some callers leave it empty.
        dets_sorted: unused.
        labels: unused, as in the compiled operator: boxes of all labels suppress one another.
        iou_threshold: a box is dropped if its IoU with a kept box of higher score is at least this.
        multi_label: unused.

    Returns:
        [M] indices of the kept boxes, int64, best first.
    """
    boxes = _precise(dets[:, :5])
    best_first = scores.argsort(descending=True).to(boxes.device)
    kept = greedy(best_first, lambda a, b: _overlaps(boxes[a], boxes[b], UNION) >= iou_threshold)
    return kept.to(dets.device)


def _area(low: Tensor, high: Tensor, offset: int) -> Tensor:
    return (high - low + offset).prod(-1)


def _precise(boxes: Tensor) -> Tensor:
    """Boxes in fp64, on the CPU unless they are on a device that has fp64."""
    return boxes.detach().to("cuda" if boxes.is_cuda else "cpu", torch.float64)


def _overlaps(a: Tensor, b: Tensor, mode: int) -> Tensor:
    """Overlaps [N, M] of rotated boxes [N, 5] and [M, 5]; computed for pairs whose circumscribed circles meet."""
    radius_a, radius_b = (boxes[:, 2:4].norm(dim=1) / 2 for boxes in (a, b))
    near = torch.cdist(a[:, :2], b[:, :2], compute_mode="donot_use_mm_for_euclid_dist") <= radius_a[:, None] + radius_b
    i, j = near.nonzero(as_tuple=True)
    result = a.new_zeros(len(a), len(b))
    result[i, j] = _overlaps_of_pairs(a, b, i, j, mode)
    return result


def _overlaps_of_pairs(a: Tensor, b: Tensor, i: Tensor, j: Tensor, mode: int) -> Tensor:
    """Overlaps [K] of the boxes ``a[i]`` and ``b[j]``."""
    parts = [_overlap(a[p], b[q], mode) for p, q in zip(i.split(PAIRS), j.split(PAIRS), strict=True)]
    return torch.cat(parts)


def _overlap(a: Tensor, b: Tensor, mode: int) -> Tensor:
    area_a, area_b = a[:, 2] * a[:, 3], b[:, 2] * b[:, 3]
    smaller = torch.cat([b[:, :2] - a[:, :2], b[:, 2:4] * (1 - SHRINK), b[:, 4:]], 1)
    corners_a, corners_b = _corners(torch.cat([torch.zeros_like(a[:, :2]), a[:, 2:]], 1)), _corners(smaller)
    inter = (_boundary(corners_a, corners_b) + _boundary(corners_b, corners_a)).clamp(min=0)
    base = area_a + area_b - inter if mode == UNION else area_a
    empty = (area_a < SMALLEST_AREA) | (area_b < SMALLEST_AREA)
    return torch.where(empty, 0, inter / torch.where(empty, 1, base))


def _corners(boxes: Tensor) -> Tensor:
    """Corners [K, 4, 2] of rotated boxes [K, 5]; the interior is where the cross product with a side is positive."""
    cos, sin = boxes[:, 4].cos(), boxes[:, 4].sin()
    along = torch.stack([cos, sin], 1) * boxes[:, 2:3] / 2
    across = torch.stack([-sin, cos], 1) * boxes[:, 3:4] / 2
    offsets = torch.stack([-along - across, along - across, along + across, across - along], 1)
    return boxes[:, None, :2] + offsets


def _boundary(polygon: Tensor, other: Tensor) -> Tensor:
    """Half the integral of ``x dy - y dx`` over the parts of the sides of ``polygon`` in ``other``, both [K, 4, 2]."""
    side, other_side = polygon.roll(-1, 1) - polygon, other.roll(-1, 1) - other
    # A point start + t * side is inside of an other side where level + t * slope >= 0; [K, side, other side].
    level = _cross(other_side[:, None], polygon[:, :, None] - other[:, None])
    slope = _cross(other_side[:, None], side[:, :, None])
    t = -level / slope
    first = torch.where(slope > 0, t, -torch.inf).amax(2).clamp(min=0)
    last = torch.where(slope < 0, t, torch.inf).amin(2).clamp(max=1)
    outside = ((slope == 0) & (level < 0)).any(2)
    length = (last - first).clamp(min=0).masked_fill(outside, 0)
    return (length * _cross(polygon, side)).sum(1) / 2


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
