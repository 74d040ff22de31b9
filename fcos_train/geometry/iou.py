"""IoU of two boxes around a common point, computed from their side distances, with its derivative.

Distances make corners unnecessary: inter = (min l + min r) * (min t + min b). They also keep the precision that corners
lose for a small box far from the origin. The derivative is written out by hand, which launches a third of the kernels
that autograd would; the tests compare it with autograd.
"""

from __future__ import annotations

import torch
from torch import Tensor

_Sized = tuple[Tensor, Tensor]  # lengths [..., 2, P] and areas [..., P]


def _areas(distances: Tensor) -> _Sized:
    """[..., 2 sides, 2 axes, P] -> lengths [..., 2, P] and areas [..., P]."""
    lengths = distances.sum(-3)
    return lengths, lengths[..., 0, :] * lengths[..., 1, :]


def _by_other_axis(slope: Tensor, lengths: Tensor) -> Tensor:
    """d loss / d area [..., P] -> d loss / d length [..., 1, 2, P]: area = product of lengths, so axes swap."""
    return (slope.unsqueeze(-2) * lengths.flip(-2)).unsqueeze(-3)


def distance_iou(pred: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """IoU of boxes given by their distances from one point.

    Args:
        pred, target: [B, 2, 2, P] f32, not negative: (near, far) side x axis.
        eps: lower bound of the union, in px^2.
    Returns:
        [B, P] in [0, 1].
    """
    inter, own, union = _parts(pred, target, eps)
    return inter[1] / union


def distance_giou(pred: Tensor, target: Tensor, eps: float = 1e-6) -> Tensor:
    """Generalized IoU (arXiv 1902.09630), arguments as in :func:`distance_iou`; [B, P] in [-1, 1]."""
    inter, own, union = _parts(pred, target, eps)
    hull = _areas(torch.maximum(pred, target))[1].clamp(min=eps)
    return inter[1] / union - (hull - union) / hull


def _parts(pred: Tensor, target: Tensor, eps: float) -> tuple[_Sized, _Sized, Tensor]:
    """(lengths, areas) of the intersection and of the predicted box, and the union."""
    inter, own = _areas(torch.minimum(pred, target)), _areas(pred)
    union = (own[1] + _areas(target)[1] - inter[1]).clamp(min=eps)
    return inter, own, union


def iou_loss(pred: Tensor, target: Tensor, mode: str, eps: float) -> tuple[Tensor, Tensor]:
    """-log(IoU), 1 - IoU or 1 - IoU^2 (mode log, linear, square), with IoU clamped to ``eps``; arguments as in
    :func:`distance_iou`.

    Returns:
        loss [B, P] and its derivative with respect to ``pred`` [B, 2, 2, P].
    """
    inter, own, union = _parts(pred, target, 1e-6)
    raw = inter[1] / union
    iou = raw.clamp(min=eps)
    if mode == "log":
        loss, outer = -iou.log(), -iou.reciprocal()
    elif mode == "linear":
        loss, outer = 1 - iou, -torch.ones_like(iou)
    else:
        loss, outer = 1 - iou * iou, -2 * iou
    # IoU = I / U with U = A + T - I:  dIoU = dI (1 + IoU) / U - dA IoU / U
    per_union = outer * (raw >= eps) / union
    by_own = per_union * raw
    slope = _by_other_axis(per_union + by_own, inter[0]) * (pred < target) - _by_other_axis(by_own, own[0])
    return loss, slope


def giou_loss(pred: Tensor, target: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """1 - GIoU and its derivative; arguments and shapes as in :func:`iou_loss`."""
    inter, own, union = _parts(pred, target, eps)
    lengths, hull = _areas(torch.maximum(pred, target))
    hull = hull.clamp(min=eps)
    iou, filled = inter[1] / union, union / hull
    # GIoU = IoU + U / H - 1:  d = dI ((1 + IoU) / U - 1 / H) + dA (1 / H - IoU / U) - dH U / H^2
    by_own = iou / union - hull.reciprocal()
    by_inter = _by_other_axis(-(by_own + union.reciprocal()), inter[0])
    by_hull = _by_other_axis(filled / hull, lengths)
    slope = torch.where(pred < target, by_inter, by_hull) + _by_other_axis(by_own, own[0])
    return 2 - iou - filled, slope


def centerness(target: Tensor) -> Tensor:
    """Centerness (arXiv 1904.01355, eq. 3) of [B, 2, 2, P] positive side distances -> [B, P] in (0, 1]."""
    ratio = target.amin(1) / target.amax(1)
    return torch.sqrt(ratio[:, 0] * ratio[:, 1])
