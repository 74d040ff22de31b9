"""Fixed-shape losses for dense heads: no indices of positives, computed in float32, with derivatives written out.

A loss is computed together with its derivative, without autograd; :func:`attach` then passes the sum and the derivative
to autograd. The backward pass keeps one tensor instead of a chain, and the number of launches is halved.
Shape symbols as in :mod:`fcos_train.geometry.points`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from fcos_train.geometry.iou import giou_loss, iou_loss
from mmcv_overrides.errors import UserError

EPS = torch.finfo(torch.float32).eps  # mmdet adds this to averaging factors
BoxLoss = Callable[
    [Tensor, Tensor], tuple[Tensor, Tensor]
]  # pred, target [B, 2, 2, P] -> loss [B, P], its derivative by pred


def reduce_mean(values: Tensor) -> Tensor:
    """Mean over the ranks by one all-reduce; ``values`` itself in a single process."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return values
    values = values / dist.get_world_size()
    dist.all_reduce(values)
    return values


class _Attach(torch.autograd.Function):
    """A sum whose derivative is already known."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, terms: Tensor, derivative: Tensor, average: Tensor) -> Tensor:
        """sum(terms) / average, 0-d."""
        ctx.save_for_backward(derivative, average)
        ctx.dtype = source.dtype
        return terms.sum() / average

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradient of ``source``."""
        derivative, average = ctx.saved_tensors
        # float32 up to here: ``grad`` includes the loss scale, so half precision does not underflow
        return (derivative * (grad / average)).to(ctx.dtype), None, None, None


def attach(source: Tensor, terms: Tensor, derivative: Tensor, average: Tensor, weight: float = 1.0) -> Tensor:
    """weight * sum(terms) / average, 0-d, whose gradient with respect to ``source`` is weight * derivative / average.

    Args:
        source: the prediction, part of the graph.
        terms: any shape, f32.
        derivative: shape of ``source``; kept for the backward pass.
        average: 0-d.
        weight: not 0.
    """
    if source.dtype == torch.bfloat16:  # its range is sufficient, at half the memory
        derivative = derivative.to(torch.bfloat16)
    return _Attach.apply(source, terms, derivative, average if weight == 1 else average / weight)


def own_class(labels: Tensor, num_classes: int) -> Tensor:
    """[B, P] labels -> [B, C, P] bool, True for the class of the point; False everywhere for background."""
    return labels.unsqueeze(1) == torch.arange(num_classes, device=labels.device).unsqueeze(1)


def focal_loss(
    logits: Tensor,
    own: Tensor,
    gamma: float,
    alpha: float,
    ignored: Tensor | None = None,
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sigmoid focal loss (arXiv 1708.02002).

    If the sign of the logit is flipped for the point's own class, both targets have the same form:
    loss = w p^g s and d = w p^g (p + g (1 - p) s), with p = sigmoid(x), s = softplus(x) = -log(1 - p).

    Args:
        logits: [B, C, P], any float dtype.
        own: [B, C, P] bool, see :func:`own_class`.
        ignored: [B, C, P] bool, entries that have no loss unless the class is the point's own; or None.
        weight: [P] f32, weight of each point; or None.
    Returns:
        two tensors [B, C, P] f32: the loss and its derivative with respect to the logits.
    """
    # in place: on a CPU new memory of this size costs several times the arithmetic
    sign = own.float().mul_(-2.0).add_(1.0)
    x = logits * sign
    p, s = torch.sigmoid(x), F.softplus(x)
    power = torch.rsub(sign, 0.5, alpha=alpha - 0.5)  # alpha where own, else 1 - alpha
    if ignored is not None:
        power.masked_fill_(ignored & ~own, 0.0)
    if weight is not None:
        power.mul_(weight)
    power = power.mul_(p).mul_(p) if gamma == 2 else power.mul_(p**gamma)
    loss = power * s
    s.addcmul_(s, p, value=-1.0)
    return loss, p.add_(s, alpha=gamma).mul_(power).mul_(sign)


def binary_cross_entropy(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Elementwise loss of f32 logits, and its derivative; shape of the logits."""
    return torch.addcmul(F.softplus(logits), logits, target, value=-1), torch.sigmoid(logits) - target


def box_loss(loss: nn.Module) -> BoxLoss | None:
    """The fixed-shape form of mmdet's IoULoss or GIoULoss, without its weight; None for any other loss."""
    name, options = type(loss).__name__, cast(Any, loss)
    if name == "IoULoss":
        return lambda pred, target: iou_loss(pred, target, options.mode, options.eps)
    if name == "GIoULoss":
        return lambda pred, target: giou_loss(pred, target, options.eps)
    return None


def corner_loss(loss: Any, pred: Tensor, target: Tensor, xy: Tensor) -> Tensor:
    """Any loss of mmdet on corner boxes, elementwise and without its weight, computed through autograd.

    Args:
        pred, target: [B, 2, 2, P] side distances, (near, far) x (x, y), in px. xy: [2, P] points in px.
    Returns:
        [B, P].
    """
    value = loss(_corners(pred, xy), _corners(target, xy), reduction_override="none") / loss.loss_weight
    return value.reshape(pred.shape[0], pred.shape[-1], -1).sum(2)


def _corners(distances: Tensor, xy: Tensor) -> Tensor:
    """[B, 2, 2, P] distances around [2, P] points -> [B * P, 4] xyxy."""
    corners = torch.cat((xy - distances[:, 0], xy + distances[:, 1]), dim=1)
    return corners.transpose(1, 2).reshape(-1, 4)


def check_focal(loss: Any, head: str) -> None:
    """Check that the classification loss of mmdet's ``head`` has a fixed-shape form.

    Raises:
        UserError: it has none.
    """
    if type(loss).__name__ != "FocalLoss" or loss.activated:
        raise UserError(
            f"FixedShape{head} covers loss_cls of type FocalLoss on logits, not {type(loss).__name__}: "
            f"change loss_cls, or use type='{head}' (any loss, slower)"
        )
