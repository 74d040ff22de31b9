"""Greedy non-maximum suppression of one class in numpy: the definition that exported graphs are compared with."""

from __future__ import annotations

import numpy as np


def suppress(boxes: np.ndarray, scores: np.ndarray, score_thr: float, iou_thr: float, most: int) -> list[int]:
    """Suppress boxes of one class; overlaps are computed in float32.

    Args:
        boxes: [N, 4] x1 y1 x2 y2, float16 or float32. scores: [N].
        score_thr: scores must exceed this.
        iou_thr: a box is suppressed when its IoU with a better, kept box exceeds this.
        most: maximum number of kept boxes.

    Returns:
        indices of the kept boxes, highest score first.
    """
    boxes = boxes.astype(np.float32)
    size = boxes[:, 2:] - boxes[:, :2]
    order = np.flatnonzero((scores > scores.dtype.type(score_thr)) & (size > 0).all(1))
    order = order[np.argsort(-scores[order], kind="stable")]
    area = size[:, 0] * size[:, 1]
    kept: list[int] = []
    while order.size and len(kept) < most:
        best, order = order[0], order[1:]
        kept.append(int(best))
        low = np.maximum(boxes[best, :2], boxes[order, :2])
        high = np.minimum(boxes[best, 2:], boxes[order, 2:])
        inside = np.clip(high - low, 0, None).prod(1)
        order = order[inside <= iou_thr * (area[best] + area[order] - inside)]
    return kept
