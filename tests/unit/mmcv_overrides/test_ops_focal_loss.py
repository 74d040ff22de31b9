"""Focal losses against the paper's formula, differentiated by autograd in fp64."""

import pytest
import torch

TARGET = torch.tensor([0, 2, 3, 1, 3])  # 3 is the background of three classes
WEIGHT = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)


def logits(classes=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(5, classes, generator=generator)).to(dtype).requires_grad_()


def sigmoid_formula(logit, target, gamma, alpha):
    prob = logit.sigmoid()
    positive = target[:, None] == torch.arange(logit.size(1))
    return torch.where(
        positive,
        -alpha * (1 - prob) ** gamma * prob.log(),
        -(1 - alpha) * prob**gamma * (1 - prob).log(),
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_sigmoid_focal_loss(gamma, reduction):
    from mmcv.ops import sigmoid_focal_loss

    logit = logits()
    loss = sigmoid_focal_loss(logit, TARGET, gamma, 0.25, None, reduction)
    expected = sigmoid_formula(logit, TARGET, gamma, 0.25)
    expected = {"none": expected, "sum": expected.sum(), "mean": expected.sum() / 5}[reduction]
    torch.testing.assert_close(loss, expected)
    factor = torch.linspace(0.5, 1.5, loss.numel(), dtype=torch.float64).view(loss.shape)
    gradient = torch.autograd.grad((loss * factor).sum(), logit)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad((expected * factor).sum(), logit)[0])


def test_sigmoid_focal_loss_by_hand():
    from mmcv.ops import sigmoid_focal_loss

    loss = sigmoid_focal_loss(torch.zeros(1, 2), torch.tensor([1]), 2.0, 0.25, None, "none")
    log2 = 0.6931472
    assert loss[0].tolist() == pytest.approx([0.75 * 0.25 * log2, 0.25 * 0.25 * log2])


def test_sigmoid_focal_loss_weighs_the_row_of_a_class_and_leaves_the_background():
    from mmcv.ops import SigmoidFocalLoss

    logit = logits()
    loss = SigmoidFocalLoss(2.0, 0.25, WEIGHT, "sum")(logit, TARGET)
    rows = torch.tensor([0.5, 3.0, 1.0, 2.0, 1.0], dtype=torch.float64)[:, None]
    expected = (sigmoid_formula(logit, TARGET, 2.0, 0.25) * rows).sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, logit)[0], torch.autograd.grad(expected, logit)[0])


def test_sigmoid_focal_loss_of_extreme_logits():
    from mmcv.ops import sigmoid_focal_loss

    logit = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    loss = sigmoid_focal_loss(logit, torch.tensor([0, 0]), 2.0, 0.25, None, "none")
    torch.testing.assert_close(loss, torch.tensor([[0.0, 0.0], [50.0, 150.0]]))
    gradient = torch.autograd.grad(loss.sum(), logit)[0]
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0.0], [-0.25, 0.75]]))


def test_sigmoid_focal_loss_of_bfloat16_is_computed_in_fp32():
    from mmcv.ops import sigmoid_focal_loss

    logit = logits(dtype=torch.bfloat16)
    loss = sigmoid_focal_loss(logit, TARGET, 2.0, 0.25, None, "none")
    expected = sigmoid_formula(logit.double(), TARGET, 2.0, 0.25)
    torch.testing.assert_close(loss.double(), expected, rtol=2**-8, atol=1e-6)


def softmax_formula(logit, target, gamma, alpha):
    prob = logit.softmax(1).gather(1, target[:, None])[:, 0]
    return -alpha * (1 - prob) ** gamma * prob.log()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_softmax_focal_loss(gamma, weighted, reduction):
    from mmcv.ops import softmax_focal_loss

    logit = logits(4)
    weight = torch.tensor([0.5, 2.0, 3.0, 0.25], dtype=torch.float64) if weighted else None
    loss = softmax_focal_loss(logit, TARGET, gamma, 0.25, weight, reduction)
    expected = softmax_formula(logit, TARGET, gamma, 0.25) * (weight[TARGET] if weighted else 1)
    expected = expected.sum() / (5 if reduction == "mean" else 1)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, logit)[0], torch.autograd.grad(expected, logit)[0])


def test_softmax_focal_loss_of_a_certain_and_of_an_unlabelled_row():
    from mmcv.ops import softmax_focal_loss

    logit = torch.tensor([[200.0, -200.0], [1.0, 2.0]], requires_grad=True)
    loss = softmax_focal_loss(logit, torch.tensor([0, -1]), 0.5, 0.25, None, "sum")
    assert loss.item() == 0.0
    assert torch.equal(torch.autograd.grad(loss, logit)[0], torch.zeros(2, 2))
