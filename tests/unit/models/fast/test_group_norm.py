"""The fast GroupNorm is as close to fp32 as torch's own, and uses torch's own where that is fast."""

import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn

from fcos_train.models.fast.group_norm import ConvGroupNormReLU, QuickGroupNorm, quick_group_norm
from tests.support.noise import relative_error


def gradients(layer, x, grad):
    layer.zero_grad()
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(x)
    y.backward(grad.to(y.dtype))
    return [t.float() for t in (y.detach(), x.grad, layer.weight.grad, layer.bias.grad)]


@pytest.mark.parametrize("size", [(20, 20), (33, 33), (3, 5), (1, 1)])
def test_as_exact_as_torchs_own(size):
    torch.manual_seed(0)
    layer = nn.GroupNorm(8, 32)
    nn.init.normal_(layer.weight)
    order = {"memory_format": torch.channels_last}
    x = (torch.randn(2, 32, *size) * 2 + 0.5).bfloat16().contiguous(**order)
    grad = torch.randn(2, 32, *size).bfloat16().contiguous(**order)
    truth = gradients(layer, x.float(), grad.float())
    own = gradients(layer, x, grad)
    assert quick_group_norm(layer) == 1 and isinstance(layer, QuickGroupNorm)
    quick = gradients(layer, x, grad)
    assert relative_error(quick[0], truth[0]) <= relative_error(own[0], truth[0]) + 1e-4
    for found, reference in zip(quick[1:], truth[1:], strict=True):
        assert relative_error(found, reference) < 0.01


def test_other_cases_are_torchs_own():
    layer = nn.GroupNorm(4, 8)
    x, grad = torch.randn(2, 8, 4, 4), torch.randn(2, 8, 4, 4)
    own = gradients(layer, x, grad)
    quick_group_norm(layer)
    assert all(torch.equal(a, b) for a, b in zip(gradients(layer, x, grad), own, strict=True))
    assert list(layer.state_dict()) == ["weight", "bias"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_conv_module_with_relu_gives_the_same(dtype):
    torch.manual_seed(0)
    module = ConvModule(4, 8, 3, norm_cfg=dict(type="GN", num_groups=2)).to(dtype)
    x, kinds = torch.randn(2, 4, 7, 6, dtype=dtype), [dict(), dict(activate=False), dict(norm=False)]
    before = [module(x, **kind) for kind in kinds]
    names = list(module.state_dict())
    assert quick_group_norm(module) == 1 and type(module) is ConvGroupNormReLU
    assert all(torch.equal(module(x, **kind), y) for kind, y in zip(kinds, before, strict=True))
    assert list(module.state_dict()) == names


@pytest.mark.parametrize(
    "changed", [dict(act_cfg=dict(type="LeakyReLU")), dict(act_cfg=None), dict(order=("norm", "conv", "act"))]
)
def test_other_conv_modules_keep_their_class(changed):
    module = ConvModule(8, 8, 3, **{"norm_cfg": dict(type="GN", num_groups=2), **changed})
    assert quick_group_norm(module) == 1 and type(module) is ConvModule
