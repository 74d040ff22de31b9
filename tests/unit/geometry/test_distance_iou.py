"""IoU from side distances against corner boxes, and its derivatives against autograd."""

import pytest
import torch

from fcos_train.geometry.iou import centerness, distance_giou, distance_iou, giou_loss, iou_loss


def _pairs(points=200, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pred, target = (torch.rand(2, 2, 2, points, generator=generator) * 50 + 0.1 for _ in range(2))
    return pred, target


def _corners(distances):
    near, far = -distances[:, 0], distances[:, 1]
    return torch.cat((near, far), 1).transpose(1, 2)  # [B, P, 4]


def test_overlaps_are_those_of_the_corner_boxes():
    pred, target = _pairs()
    a, b = _corners(pred), _corners(target)
    inter = (torch.minimum(a, b)[..., 2:] - torch.maximum(a, b)[..., :2]).prod(-1)
    hull = (torch.maximum(a, b)[..., 2:] - torch.minimum(a, b)[..., :2]).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inter
    torch.testing.assert_close(distance_iou(pred, target), inter / union)
    torch.testing.assert_close(distance_giou(pred, target), inter / union - (hull - union) / hull)
    assert torch.all(distance_iou(pred, pred) == 1)


LOSSES = {
    "log": (lambda p, t: iou_loss(p, t, "log", 1e-6), lambda p, t: -distance_iou(p, t).clamp(min=1e-6).log()),
    "linear": (
        lambda p, t: iou_loss(p, t, "linear", 0.2),
        lambda p, t: 1 - distance_iou(p, t).clamp(min=0.2),
    ),
    "square": (
        lambda p, t: iou_loss(p, t, "square", 1e-6),
        lambda p, t: 1 - distance_iou(p, t).clamp(min=1e-6) ** 2,
    ),
    "giou": (lambda p, t: giou_loss(p, t, 1e-7), lambda p, t: 1 - distance_giou(p, t, 1e-7)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_derivatives(name):
    written, plain = LOSSES[name]
    pred, target = (value.double() for value in _pairs())
    pred.requires_grad_()
    expected = plain(pred, target)
    (gradient,) = torch.autograd.grad(expected.sum(), pred)
    loss, slope = written(pred.detach(), target)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(slope, gradient)


@pytest.mark.parametrize("name", LOSSES)
def test_finite_at_an_empty_prediction(name):
    _, target = _pairs()
    loss, slope = LOSSES[name][0](torch.zeros_like(target), target)
    assert torch.isfinite(loss).all() and torch.isfinite(slope).all()


def test_centerness():
    target = torch.tensor([[1.0, 4.0], [9.0, 4.0]]).view(1, 2, 2, 1)  # l 1, t 4, r 9, b 4
    torch.testing.assert_close(centerness(target), torch.tensor([[1 / 3]]))
