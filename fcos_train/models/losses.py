"""Losses of fixed shape for dense heads: no index of positives, float32 inside, derivatives written out.

Every loss is computed without autograd together with its derivative; :func:`attach` then hands autograd the sum
and the derivative. That keeps one tensor for the backward pass instead of a chain, and halves the launches.
Letters as in :mod:`fcos_train.geometry.points`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from fcos_train.geometry.iou import giou_loss, iou_loss
from mmcv_overrides.errors import UserError

EPS = torch.finfo(torch.float32).eps  # mmdet adds it to averaging factors
BoxLoss = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # pred, target [B, 2, 2, P] -> loss [B, P], derivative


def reduce_mean(values: Tensor) -> Tensor:
    """Mean over the ranks (one all-reduce), or ``values`` themselves in a single process."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return values
    values = values / dist.get_world_size()
    dist.all_reduce(values)
    return values


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(ctx, source: Tensor, terms: Tensor, derivative: Tensor, average: Tensor):
        ctx.save_for_backward(derivative, average)
        ctx.dtype = source.dtype
        return terms.sum() / average

    @staticmethod
    def backward(ctx, grad: Tensor):
        derivative, average = ctx.saved_tensors
        # in float32 up to here: a loss scale is in ``grad``, so that half precision does not underflow
        return (derivative * (grad / average)).to(ctx.dtype), None, None, None


def attach(source: Tensor, terms: Tensor, derivative: Tensor, average: Tensor, weight: float = 1.0) -> Tensor:
    """weight * sum(terms) / average as a 0-d tensor whose gradient by ``source`` is weight * derivative / average.

    Args:
        source: the prediction, in the graph. terms: any shape, f32. derivative: shape of ``source``, kept for the
        backward pass. average: 0-d. weight: not 0.
    """
    if source.dtype == torch.bfloat16:  # range enough, half the memory
        derivative = derivative.to(torch.bfloat16)
    return _Attach.apply(source, terms, derivative, average if weight == 1 else average / weight)


def own_class(labels: Tensor, num_classes: int) -> Tensor:
    """[B, P] labels -> [B, C, P] bool; no class is a background point's own."""
    return labels.unsqueeze(1) == torch.arange(num_classes, device=labels.device).unsqueeze(1)


def focal_loss(
    logits: Tensor,
    own: Tensor,
    gamma: float,
    alpha: float,
    silent: Tensor | None = None,
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sigmoid focal loss (arXiv 1708.02002).

    With the logit's sign turned where the class is the point's own, both targets have one form:
    loss = w p^g s and d = w p^g (p + g (1 - p) s), with p = sigmoid(x), s = softplus(x) = -log(1 - p).

    Args:
        logits: [B, C, P], any float type. own: [B, C, P] bool.
        silent: [B, C, P] bool, entries of other classes that have no loss; or None.
        weight: [P] f32, of each point; or None.
    Returns:
        two of [B, C, P] f32: loss and its derivative by the logits.
    """
    # in place: on a CPU fresh memory of this size costs several times the arithmetic
    sign = own.float().mul_(-2.0).add_(1.0)
    x = logits * sign
    p, s = torch.sigmoid(x), F.softplus(x)
    power = torch.rsub(sign, 0.5, alpha=alpha - 0.5)  # alpha where own, else 1 - alpha
    if silent is not None:
        power.masked_fill_(silent & ~own, 0.0)
    if weight is not None:
        power.mul_(weight)
    power = power.mul_(p).mul_(p) if gamma == 2 else power.mul_(p**gamma)
    loss = power * s
    s.addcmul_(s, p, value=-1.0)
    return loss, p.add_(s, alpha=gamma).mul_(power).mul_(sign)


def binary_cross_entropy(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Elementwise loss from f32 logits, and its derivative."""
    return torch.addcmul(F.softplus(logits), logits, target, value=-1), torch.sigmoid(logits) - target


def box_loss(loss: nn.Module) -> BoxLoss | None:
    """The fixed-shape form of mmdet's IoULoss or GIoULoss, without its weight; None for any other."""
    name = type(loss).__name__
    if name == "IoULoss":
        return lambda pred, target: iou_loss(pred, target, loss.mode, loss.eps)
    if name == "GIoULoss":
        return lambda pred, target: giou_loss(pred, target, loss.eps)
    return None


def corner_loss(loss: nn.Module, pred: Tensor, target: Tensor, xy: Tensor) -> Tensor:
    """Any of mmdet's losses on corner boxes, elementwise, its weight taken out, through autograd.

    Args:
        pred, target: [B, 2, 2, P] side distances in (x, y) order. xy: [2, P].
    Returns:
        [B, P].
    """
    value = loss(_corners(pred, xy), _corners(target, xy), reduction_override="none") / loss.loss_weight
    return value.reshape(pred.shape[0], pred.shape[-1], -1).sum(2)


def _corners(distances: Tensor, xy: Tensor) -> Tensor:
    """[B, 2, 2, P] distances around [2, P] points -> [B * P, 4] xyxy."""
    corners = torch.cat((xy - distances[:, 0], xy + distances[:, 1]), dim=1)
    return corners.transpose(1, 2).reshape(-1, 4)


def check_focal(loss: nn.Module, head: str) -> None:
    """Refuse a classification loss that has no fixed-shape form here."""
    if type(loss).__name__ != "FocalLoss" or loss.activated:
        raise UserError(
            f"Static{head} covers loss_cls of type FocalLoss on logits, not {type(loss).__name__}: "
            f"change loss_cls, or use type='{head}' (any loss, slower)"
        )
