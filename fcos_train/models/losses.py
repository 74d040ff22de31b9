"""Losses of fixed shape for dense heads: no index of positives, one pass over the class logits, float32 inside.

Letters as in :mod:`fcos_train.geometry.points`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from fcos_train.geometry.iou import distance_giou, distance_iou
from mmcv_overrides.errors import UserError

EPS = torch.finfo(torch.float32).eps  # mmdet adds it to every averaging factor
BoxLoss = Callable[[Tensor, Tensor, Tensor], Tensor]  # pred, target [B, 2, 2, P], xy [2, P] -> [B, P]


def reduce_mean(values: Tensor) -> Tensor:
    """Mean over the ranks (one all-reduce), or ``values`` themselves in a single process."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return values
    values = values / dist.get_world_size()
    dist.all_reduce(values)
    return values


def _focal(x: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Focal loss of logits whose target is 0, without alpha, and its derivative: p^g s and p^g (g (1 - p) s + p).

    p = sigmoid(x), s = softplus(x) = -log(1 - p). With the target 1 it is the same function of -x.
    """
    p, s = torch.sigmoid(x), F.softplus(x)
    power = p * p if gamma == 2 else p**gamma
    return power * s, power.mul_(torch.addcmul(p, 1 - p, s, value=gamma))


class _FocalRows(torch.autograd.Function):
    """Focal loss of each point, split in its negatives' sum and its positive; the slope is computed on the way.

    One dense slope is kept for the backward pass instead of the chain of intermediates that autograd would keep.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, labels: Tensor, foreground: Tensor, keep: Tensor | None, gamma: float):
        column = (labels * foreground).unsqueeze(1)  # [B, 1, P]; background points write column 0 onto itself
        x = logits.float()
        value, slope = _focal(x, gamma)
        if keep is not None:
            value, slope = value.mul_(keep), slope.mul_(keep)
        own_value, own_slope = _focal(-x.gather(1, column), gamma)
        own_negative = value.gather(1, column).squeeze(1)
        negatives = value.sum(1) - own_negative * foreground
        positive = own_value.squeeze(1) * foreground
        ctx.save_for_backward(slope, own_slope, column, foreground)
        ctx.logits_dtype = logits.dtype
        return negatives, positive

    @staticmethod
    def backward(ctx, grad_negatives: Tensor, grad_positive: Tensor):
        slope, own_slope, column, foreground = ctx.saved_tensors
        grad = slope * grad_negatives.unsqueeze(1)
        own = torch.where(foreground.unsqueeze(1), -own_slope * grad_positive.unsqueeze(1), grad.gather(1, column))
        return grad.scatter_(1, column, own).to(ctx.logits_dtype), None, None, None, None


def focal_rows(
    logits: Tensor, labels: Tensor, foreground: Tensor, keep: Tensor | None = None, gamma: float = 2.0, alpha: float = 0.25
) -> tuple[Tensor, Tensor]:
    """Sigmoid focal loss (arXiv 1708.02002) of every point.

    Args:
        logits: [B, C, P], any float type. labels: [B, P] i64. foreground: [B, P] bool.
        keep: [B, C, P] bool, false where a negative must not count; or None.
    Returns:
        two of [B, P] f32: sum over the classes that the point is not; the class that it is (0 for background).
    """
    negatives, positive = _FocalRows.apply(logits, labels, foreground, keep, gamma)
    return negatives * (1 - alpha), positive * alpha


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Elementwise, from logits."""
    return F.softplus(logits) - logits * target


def check_focal(loss: nn.Module, head: str) -> None:
    """Refuse a classification loss that has no fixed-shape form here."""
    if type(loss).__name__ != "FocalLoss" or loss.activated:
        raise UserError(
            f"Static{head} covers loss_cls of type FocalLoss on logits, not {type(loss).__name__}: "
            f"change loss_cls, or use type='{head}' (any loss, slower)"
        )


def box_loss(loss: nn.Module) -> BoxLoss:
    """The fixed-shape form of one of mmdet's box losses, elementwise and without its weight.

    IoULoss and GIoULoss are computed from side distances; any other loss on corner boxes runs as it is.
    """
    name = type(loss).__name__
    if name == "IoULoss":
        return _iou_loss(loss.mode, loss.eps)
    if name == "GIoULoss":
        return lambda pred, target, xy: 1 - distance_giou(pred, target, loss.eps)

    def by_corners(pred: Tensor, target: Tensor, xy: Tensor) -> Tensor:
        shape = pred.shape[0], pred.shape[-1]
        value = loss(_corners(pred, xy), _corners(target, xy), reduction_override="none") / loss.loss_weight
        return value.reshape(*shape, -1).sum(2)

    return by_corners


def _iou_loss(mode: str, eps: float) -> BoxLoss:
    def by_distances(pred: Tensor, target: Tensor, xy: Tensor) -> Tensor:
        iou = distance_iou(pred, target).clamp(min=eps)
        if mode == "log":
            return -iou.log()
        return 1 - (iou if mode == "linear" else iou * iou)

    return by_distances


def _corners(distances: Tensor, xy: Tensor) -> Tensor:
    """[B, 2, 2, P] distances around [2, P] points -> [B * P, 4] xyxy."""
    corners = torch.cat((xy - distances[:, 0], xy + distances[:, 1]), dim=1)
    return corners.transpose(1, 2).reshape(-1, 4)
