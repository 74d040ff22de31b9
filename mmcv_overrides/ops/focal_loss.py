"""Focal loss (Lin et al., 2017, https://arxiv.org/abs/1708.02002), elementwise, forward and backward.

Computed in fp32 or better, from logits through ``logsigmoid``, so that probabilities need no clamping.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcv_overrides.ops.rows import compute_dtype


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the loss of every logit into ``output``.

    Args:
        input: logits [N, C].
        target: class of each row [N], int64; a label outside [0, C), such as the background C, makes all negative.
        weight: weight of each class [C], applied to all of a row with that label; empty for none. Rows labelled
            outside [0, C) have weight 1.
        output: [N, C], overwritten.
        gamma: focusing exponent.
        alpha: weight of positives; negatives get ``1 - alpha``.
    """
    _, balance, logit = _signed(input, target, alpha)
    miss = torch.sigmoid(-logit)  # 1 - p_t
    loss = miss.pow_(gamma).mul_(F.logsigmoid(logit)).mul_(balance).neg_()
    output.copy_(_weigh_rows(loss, target, weight))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write d loss / d logit [N, C] into ``grad_input``; arguments as in `sigmoid_focal_loss_forward`."""
    positive, balance, logit = _signed(input, target, alpha)
    miss = torch.sigmoid(-logit)
    slope = torch.sigmoid(logit).mul_(F.logsigmoid(logit)).mul_(gamma).sub_(miss)
    grad = slope.mul_(miss.pow_(gamma)).mul_(balance)
    grad = torch.where(positive, grad, -grad)  # the chain rule through the sign of the logit
    grad_input.copy_(_weigh_rows(grad, target, weight))


def softmax_focal_loss_forward(
    softmax: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write ``-alpha * (1 - p)^gamma * log(p)`` of the labelled class into ``output``.

    Args:
        softmax: class probabilities [N, C] (not logits).
        target: class of each row [N], int64; rows labelled outside [0, C) have loss 0.
        weight: weight of each class [C]; empty for none.
        output: [N], overwritten.
        gamma: focusing exponent.
        alpha: factor on every row.
    """
    labelled, prob = _labelled_probability(softmax, target)
    loss = -alpha * (1 - prob).pow(gamma) * prob.clamp(min=torch.finfo(prob.dtype).tiny).log()
    loss = torch.where(labelled, loss, torch.zeros_like(loss))
    output.copy_(_weigh_rows(loss[:, None], target, weight)[:, 0])


def softmax_focal_loss_backward(
    softmax: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write d loss / d logit [N, C] into ``grad_input``; ``buff`` [N] receives ``p * d loss / d p``."""
    labelled, prob = _labelled_probability(softmax, target)
    tiny = torch.finfo(prob.dtype).tiny
    miss = 1 - prob
    # Without the clamp, gamma < 1 at p = 1 would be 0 * inf.
    focus = gamma * miss.clamp(min=tiny).pow(gamma - 1) * prob * prob.clamp(min=tiny).log()
    scale = alpha * (focus - miss.pow(gamma))
    scale = torch.where(labelled, scale, torch.zeros_like(scale))
    scale = _weigh_rows(scale[:, None], target, weight)
    buff.copy_(scale[:, 0])
    grad_input.copy_(scale * (_one_hot(target, softmax.size(1)).to(scale.dtype) - softmax))


def _one_hot(target: Tensor, classes: int) -> Tensor:
    return target[:, None] == torch.arange(classes, device=target.device)


def _signed(input: Tensor, target: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """(is positive, alpha_t, logit of p_t), each [N, C]: one formula then serves positives and negatives."""
    positive = _one_hot(target, input.size(1))
    logit = input.to(compute_dtype(input.dtype))
    balance = torch.where(positive, alpha, 1 - alpha).to(logit.dtype)
    return positive, balance, torch.where(positive, logit, -logit)


def _labelled_probability(softmax: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(label is in [0, C), probability of the labelled class), each [N]."""
    labelled = (target >= 0) & (target < softmax.size(1))
    prob = softmax.gather(1, torch.where(labelled, target, 0)[:, None])[:, 0]
    return labelled, prob.to(compute_dtype(softmax.dtype))


def _weigh_rows(values: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    if weight.numel() == 0:
        return values
    known = (target >= 0) & (target < weight.numel())
    row_weight = torch.where(known, weight.to(values.dtype)[torch.where(known, target, 0)], 1.0)
    return values * row_weight[:, None]
