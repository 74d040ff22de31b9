"""CARAFE: its definition pixel by pixel, known filters, gradients by finite differences, chunks of channels."""

import pytest
import torch

from mmcv_overrides.ops import carafe as portable


def problem(kernel=3, groups=2, scale=2, channels=4, dtype=torch.float64):
    torch.manual_seed(0)
    features = torch.randn(2, channels, 3, 4, dtype=dtype)
    masks = torch.rand(2, groups * kernel**2, 3 * scale, 4 * scale, dtype=dtype)
    return features, masks, kernel, groups, scale


def by_definition(features, masks, kernel, groups, scale):
    batch, channels, height, width = features.shape
    out = features.new_zeros(batch, channels, height * scale, width * scale)
    for b, c, y, x in torch.cartesian_prod(*map(torch.arange, out.shape)).tolist():
        group = c // (channels // groups)
        for i in range(kernel):
            for j in range(kernel):
                row, column = y // scale + i - kernel // 2, x // scale + j - kernel // 2
                if 0 <= row < height and 0 <= column < width:
                    weight = masks[b, (group * kernel + i) * kernel + j, y, x]
                    out[b, c, y, x] += weight * features[b, c, row, column]
    return out


@pytest.mark.parametrize("options", [{}, {"kernel": 1, "groups": 1, "scale": 3}, {"groups": 4, "scale": 1}])
def test_equals_its_definition(options):
    from mmcv.ops import carafe, carafe_naive

    arguments = problem(**options)
    expected = by_definition(*arguments)
    torch.testing.assert_close(carafe(*arguments), expected)
    torch.testing.assert_close(carafe_naive(*arguments), expected)


def test_weight_on_the_center_is_nearest_neighbour_upsampling():
    from mmcv.ops import carafe

    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    masks = torch.zeros(1, 25, 4, 4)
    masks[:, 12] = 1
    assert carafe(features, masks, 5, 1, 2)[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]


@pytest.mark.parametrize("budget", [1 << 24, 1])
def test_gradients(monkeypatch, budget):
    from mmcv.ops import carafe

    monkeypatch.setattr(portable, "NEIGHBOUR_BUDGET", budget)  # 1: one channel of each group at a time
    features, masks, *rest = problem()
    leaves = (features.requires_grad_(), masks.requires_grad_())
    assert torch.autograd.gradcheck(lambda f, m: carafe(f, m, *rest), leaves, fast_mode=True)


def test_naive_backward_has_the_gradients_of_the_other_form():
    from mmcv.ops import carafe

    features, masks, kernel, groups, scale = problem()
    out = carafe(features.requires_grad_(), masks.requires_grad_(), kernel, groups, scale)
    grad = torch.randn_like(out)
    expected = torch.autograd.grad(out, (features, masks), grad)
    got = torch.zeros_like(features), torch.zeros_like(masks)
    portable.carafe_naive_backward(grad, features.detach(), masks.detach(), *got, kernel, groups, scale)
    torch.testing.assert_close(got, expected)


def test_the_layer_trains_under_autocast():
    from mmcv.ops import CARAFEPack

    torch.manual_seed(0)
    layer, input = CARAFEPack(8, 2), torch.randn(1, 8, 4, 4, requires_grad=True)
    exact = layer(input)
    assert exact.shape == (1, 8, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        rough = layer(input)
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.05)
    rough.float().sum().backward()
    assert input.grad.isfinite().all() and layer.content_encoder.weight.grad.abs().sum() > 0
