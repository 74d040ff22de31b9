"""Box arithmetic and greedy suppression of the decoder, on numpy arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def largest_of_levels(kept: np.ndarray, level: np.ndarray, rank: np.ndarray, count: int) -> np.ndarray:
    """Limit candidates to the ``count`` best of each level.

    Args:
        kept: indices [K] of the candidates. level, rank: level and score of all candidates [N].

    Returns:
        the remaining indices, level by level.
    """
    groups = []
    for i in np.unique(level[kept]):
        group = kept[level[kept] == i]
        groups.append(group[_largest(rank[group], count)] if len(group) > count else group)
    return np.concatenate(groups)


def from_delta(
    prior: np.ndarray, raw: np.ndarray, means: Sequence[float], stds: Sequence[float], wh_ratio_clip: float
) -> np.ndarray:
    """Apply deltas [K, 4] (dx dy dw dh) to anchors [K, 4]: boxes [K, 4] in pixels.

    R-CNN, https://arxiv.org/abs/1311.2524, appendix C, with mmdet's bound on dw and dh.
    """
    delta = raw * np.asarray(stds, np.float32) + np.asarray(means, np.float32)
    bound = np.float32(abs(math.log(wh_ratio_clip)))
    size = prior[:, 2:] - prior[:, :2]
    centre = (prior[:, :2] + prior[:, 2:]) * np.float32(0.5) + size * delta[:, :2]
    half = size * np.exp(np.clip(delta[:, 2:], -bound, bound)) * np.float32(0.5)
    return np.concatenate((centre - half, centre + half), 1)


def from_tblr(prior: np.ndarray, raw: np.ndarray, normalizer: float | Sequence[float]) -> np.ndarray:
    """Decode distances [K, 4] (top bottom left right, in units of the anchor's sides) to boxes [K, 4] in pixels.

    FSAF, https://arxiv.org/abs/1903.00621.
    """
    centre = (prior[:, :2] + prior[:, 2:]) / np.float32(2)
    size = prior[:, 2:] - prior[:, :2]
    side = raw * np.asarray(normalizer, np.float32) * size[:, [1, 1, 0, 0]]
    return np.concatenate((centre - side[:, [2, 0]], centre + side[:, [3, 1]]), 1)


def greedy(boxes: np.ndarray, group: np.ndarray | None, threshold: float, extra: int) -> np.ndarray:
    """Greedy non-maximum suppression.

    With groups, IoU is computed only for pairs within a group: with dozens of classes these are few. The kept boxes are
    the fixed point of "suppressed by a kept box"; each iteration settles the boxes whose suppressors are settled.

    Args:
        boxes: [N, 4], highest score first. group: [N], boxes of different groups do not suppress one another; None for
            a single group.
        threshold: a box is suppressed when its IoU with a better, kept box exceeds this.
        extra: added to widths and heights, in pixels.

    Returns:
        indices of the kept boxes, ascending.
    """
    corners = np.ascontiguousarray(boxes.T)
    if group is None:  # the whole matrix takes less time than the indices of the pairs that touch
        over = _iou(corners[:, :, None], corners[:, None], extra) > np.float32(threshold)
        place = nonzero(over.reshape(-1))
        first = place // max(len(boxes), 1)  # much faster than divmod
        second = place - first * len(boxes)
        above = np.flatnonzero(first < second)
    else:
        first, second = _pairs(group)
        above = np.flatnonzero(_iou(corners[:, first], corners[:, second], extra) > np.float32(threshold))
    first, second = first[above], second[above]
    keep = np.ones(len(boxes), bool)
    while True:
        settled = np.ones(len(boxes), bool)
        settled[second[keep[first]]] = False
        if np.array_equal(settled, keep):
            return np.flatnonzero(keep)
        keep = settled


def _iou(one: np.ndarray, other: np.ndarray, extra: int) -> np.ndarray:
    """Return the IoU of boxes x1, y1, x2, y2 [4, ...] with ``other`` boxes, whose shapes broadcast."""
    (x1, y1, x2, y2), (u1, v1, u2, v2) = one, other
    width = np.minimum(x2, u2)
    width -= np.maximum(x1, u1)
    height = np.minimum(y2, v2)
    height -= np.maximum(y1, v1)
    if extra:
        width, height = width + np.float32(extra), height + np.float32(extra)
    inter = np.maximum(width, 0, out=width)
    inter *= np.maximum(height, 0, out=height)
    area, area_of_other = ((r - x + np.float32(extra)) * (b - y + np.float32(extra)) for x, y, r, b in (one, other))
    union = area + area_of_other
    union -= inter
    with np.errstate(divide="ignore", invalid="ignore"):
        return inter / union


def _pairs(group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all index pairs (i, j), i < j, within a group."""
    order = np.argsort(group, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(group[order])) + 1, len(group))
    later = np.repeat(ends, np.diff(ends, prepend=0)) - np.arange(len(group)) - 1  # later members of the same group
    first = np.repeat(np.arange(len(group)), later)
    second = np.arange(len(first)) - np.repeat(np.cumsum(later) - later, later) + first + 1
    return order[first], order[second]


def _largest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the ``count`` largest values, ascending; among equal values the first ones."""
    least = np.partition(values, len(values) - count)[len(values) - count]
    above = values > least
    above[np.flatnonzero(values == least)[: count - int(above.sum())]] = True
    return np.flatnonzero(above)


def logit(probability: np.ndarray) -> np.ndarray:
    """Return a lower bound of logit(p) that is safe under float32 rounding; infinite for p >= 1."""
    probability = np.minimum(probability * (1 - 2e-6), 1)
    with np.errstate(divide="ignore"):
        return np.log(probability) - np.log1p(-probability) - 1e-5


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Logistic function in float32; the overflow of exp for very negative inputs gives the right limit, 0."""
    with np.errstate(over="ignore"):
        return np.float32(1) / (np.float32(1) + np.exp(-x.astype(np.float32, copy=False)))


def nonzero(flags: np.ndarray) -> np.ndarray:
    """Return the indices of the set flags of a bool array [K]; fast where they are few, by looking at eight at once."""
    whole = len(flags) - len(flags) % 8
    words = np.flatnonzero(flags[:whole].view(np.uint64) != 0)
    if len(words) * 32 > len(flags):  # of four words
        return np.flatnonzero(flags)
    row, column = np.nonzero(flags[:whole].reshape(-1, 8)[words])
    rest = np.flatnonzero(flags[whole:])
    found = words[row] * 8 + column
    return np.concatenate((found, rest + whole)) if len(rest) else found
