"""Overlap of two boxes around a common point, straight from their side distances.

With distances there is no need to build corners: inter = (min l + min r) * (min t + min b). It also keeps the
precision that corners lose when a small box lies far from the origin.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _box_area(distances: Tensor) -> Tensor:
    """[B, 2 sides, 2 axes, P] -> [B, P]."""
    first, second = distances.sum(1).unbind(1)
    return first * second


def distance_iou(pred: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """IoU of boxes given by their distances from one point.

    Args:
        pred, target: [B, 2, 2, P] f32, not negative: (near, far) side x axis.
        eps: least union.
    Returns:
        [B, P] in [0, 1].
    """
    inter = _box_area(torch.minimum(pred, target))
    union = _box_area(pred) + _box_area(target) - inter
    return inter / union.clamp(min=eps)


def distance_giou(pred: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """Generalized IoU (arXiv 1902.09630), arguments as :func:`distance_iou`; [B, P] in [-1, 1]."""
    inter = _box_area(torch.minimum(pred, target))
    hull = _box_area(torch.maximum(pred, target)).clamp(min=eps)
    union = (_box_area(pred) + _box_area(target) - inter).clamp(min=eps)
    return inter / union - (hull - union) / hull


def centerness(target: Tensor) -> Tensor:
    """Centerness (arXiv 1904.01355, eq. 3) of [B, 2, 2, P] positive side distances -> [B, P] in (0, 1]."""
    ratio_x, ratio_y = (target.amin(1) / target.amax(1)).unbind(1)
    return torch.sqrt(ratio_x * ratio_y)
