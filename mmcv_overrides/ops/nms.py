"""Non-maximum suppression, hard and soft, without a compiled operator."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mmcv_overrides.ops import vision
from mmcv_overrides.ops.rows import compute_dtype

# Boxes per block: the IoU matrix of one block against the rest (block x boxes) bounds the memory.
BLOCK = 512


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Greedy non-maximum suppression.

    Args:
        boxes: [N, 4], x1 y1 x2 y2 in pixels.
        scores: [N]; equal scores keep the order of torch's own sort, as in the compiled operator.
        iou_threshold: a box is dropped if its IoU with a kept box of higher score is above this.
        offset: 0 or 1; width is ``x2 - x1 + offset``.

    Returns:
        [M] indices of the kept boxes, int64, best first.
    """
    if boxes.numel() == 0:
        return torch.empty(0, dtype=torch.int64, device=boxes.device)
    boxes = boxes.detach().to(compute_dtype(boxes.dtype))
    order = scores.argsort(descending=True)
    if vision.serves_nms(boxes.device, offset):
        return order[vision.nms_of_sorted(boxes[order], iou_threshold)]
    return greedy(order, lambda a, b: pairwise_iou(boxes[a], boxes[b], offset) > iou_threshold)


def greedy(order: Tensor, suppresses: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The boxes that no kept box before them suppresses.

    Args:
        order: [N] indices of boxes, best first.
        suppresses: from indices [A] and [B], whether each of the first suppresses each of the second, bool [A, B].

    Returns:
        [M] indices of the kept boxes, best first.
    """
    in_block = _greedy_on_host if order.device.type == "cpu" else _greedy_on_device
    kept, rest = [], order
    while rest.numel():
        block, rest = rest[:BLOCK], rest[BLOCK:]
        rank = torch.arange(len(block), device=order.device)
        better = rank[:, None] < rank
        block = block[in_block(suppresses(block, block) & better)]
        kept.append(block)
        if rest.numel():
            rest = rest[~suppresses(block, rest).any(0)]
    return torch.cat(kept)


def pairwise_iou(a: Tensor, b: Tensor, offset: int) -> Tensor:
    """IoU of boxes ``a`` [N, 4] and ``b`` [M, 4], [N, M]; width is ``x2 - x1 + offset``."""
    area_a = (a[:, 2] - a[:, 0] + offset) * (a[:, 3] - a[:, 1] + offset)
    area_b = (b[:, 2] - b[:, 0] + offset) * (b[:, 3] - b[:, 1] + offset)
    ax1, ay1, ax2, ay2 = a[:, None].unbind(2)
    bx1, by1, bx2, by2 = b[None].unbind(2)
    inter = torch.minimum(ax2, bx2).sub_(torch.maximum(ax1, bx1)).add_(offset).clamp_(min=0)
    inter *= torch.minimum(ay2, by2).sub_(torch.maximum(ay1, by1)).add_(offset).clamp_(min=0)
    union = (area_a[:, None] + area_b[None]).sub_(inter)
    return inter.div_(union)


def _greedy_on_host(suppresses: Tensor) -> Tensor:
    """Mask [N] of the survivors, given the strictly upper triangular bool matrix [N, N]; one pass in NumPy."""
    matrix = suppresses.numpy()
    gone = np.zeros(len(matrix), dtype=bool)
    for i in np.flatnonzero(matrix.any(1)):
        if not gone[i]:
            gone |= matrix[i]
    return torch.from_numpy(~gone)


def _greedy_on_device(suppresses: Tensor) -> Tensor:
    """As `_greedy_on_host`, by fixed-point iteration: one read-back per round instead of one per box.

    A round settles every box whose suppressors are settled, so the number of rounds is the length of the longest chain
    of boxes that suppress one another. The fixed point is unique and equals the greedy result.
    """
    keep = torch.ones(len(suppresses), dtype=torch.bool, device=suppresses.device)
    while True:
        settled = ~(suppresses & keep[:, None]).any(0)
        if torch.equal(settled, keep):
            return keep
        keep = settled


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Greedy non-maximum suppression that tells which boxes each kept box has suppressed.

    Args:
        dets: [N, 5] on the CPU: x1 y1 x2 y2 in pixels, score.
        iou_threshold: a box joins the group of the first kept box with which its IoU is at least this.

    Returns:
        One list for each kept box, best first: its index, then those of the boxes that it suppressed, best first.
    """
    rows: np.ndarray = dets.detach().to(compute_dtype(dets.dtype)).numpy()
    rest = dets[:, 4].argsort(descending=True).numpy()
    groups = []
    while len(rest):
        best, rest = int(rest[0]), rest[1:]
        close = _iou_of_one(rows[best], rows[rest], 0) >= iou_threshold
        groups.append([best, *rest[close].tolist()])
        rest = rest[~close]
    return groups


NAIVE, LINEAR, GAUSSIAN = range(3)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int = 0,
) -> Tensor:
    """Soft-NMS (Bodla et al., 2017, https://arxiv.org/abs/1704.04503): overlapping boxes only lose score.

    Args:
        boxes: [N, 4] on the CPU, x1 y1 x2 y2 in pixels.
        scores: [N] on the CPU.
        dets: [N, 5] on the CPU; the first rows receive the kept boxes with their decayed scores.
        iou_threshold: the naive and linear methods decay scores from this IoU on.
        sigma: width of the Gaussian decay.
        min_score: a box whose score falls below it is dropped.
        method: 0 naive (drop), 1 linear (``1 - IoU``), 2 Gaussian (``exp(-IoU^2 / sigma)``).
        offset: 0 or 1; width is ``x2 - x1 + offset``.

    Returns:
        [M] indices of the kept boxes, int64, in the order of ``dets``.
    """
    joined = torch.cat([boxes, scores[:, None]], 1).detach()
    rows: np.ndarray = joined.to(compute_dtype(joined.dtype)).numpy()
    order = np.arange(len(rows))
    kept = 0
    while kept < len(rows):
        best = kept + int(rows[kept:, 4].argmax())
        rows[[kept, best]] = rows[[best, kept]]
        order[[kept, best]] = order[[best, kept]]
        kept += 1
        iou = _iou_of_one(rows[kept - 1], rows[kept:], offset)
        rows[kept:, 4] *= _decay(iou, iou_threshold, sigma, method)
        alive = _fill_holes(rows[kept:, 4] >= min_score)
        rows = np.concatenate([rows[:kept], rows[kept:][alive]])
        order = np.concatenate([order[:kept], order[kept:][alive]])
    dets[:kept] = torch.from_numpy(rows).to(dets.dtype)
    return torch.from_numpy(order)


def _iou_of_one(box: np.ndarray, others: np.ndarray, offset: int) -> np.ndarray:
    width = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0]) + offset
    height = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1]) + offset
    inter = width.clip(0) * height.clip(0)
    area = (box[2] - box[0] + offset) * (box[3] - box[1] + offset)
    areas = (others[:, 2] - others[:, 0] + offset) * (others[:, 3] - others[:, 1] + offset)
    union = area + areas - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)  # empty boxes overlap nothing


def _decay(iou: np.ndarray, iou_threshold: float, sigma: float, method: int) -> np.ndarray:
    if method == GAUSSIAN:
        return np.exp(-(iou * iou) / iou.dtype.type(sigma))
    over = iou >= iou_threshold
    return np.where(over, 1 - iou if method == LINEAR else 0, 1).astype(iou.dtype)


def _fill_holes(alive: np.ndarray) -> np.ndarray:
    """Positions of the survivors after each dropped box has been replaced by the last survivor.

    The compiled operator drops a box that way, and its order decides between equal scores later on.
    """
    count = int(alive.sum())
    positions = np.arange(count)
    fillers = count + np.flatnonzero(alive[count:])
    positions[~alive[:count]] = fillers[::-1]
    return positions
