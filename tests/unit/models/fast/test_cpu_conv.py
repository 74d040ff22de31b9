"""Convolutions as matrix products: values and gradients equal those of torch, up to bf16 rounding."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fcos_train.models.fast.cpu_conv import QuickConv2d, patches_of, quick_conv, shared_casts
from fcos_train.models.fast.fold_bn import fold_frozen_bn
from tests.support.noise import relative_error

# kernel, stride, padding, size of the map, output channels (default 24)
LAYERS = {
    "1x1, few pixels": (1, 1, 0, (9, 7)),
    "1x1, many pixels": (1, 1, 0, (20, 19)),
    "1x1, stride 2": (1, 2, 0, (13, 9)),
    "1x1, stride 2, many pixels": (1, 2, 0, (40, 38)),
    "3x3, tiny map": (3, 1, 1, (5, 3)),
    "3x3, small map": (3, 1, 1, (10, 11)),
    "3x3, map of one position": (3, 1, 1, (1, 1)),
    "3x3, stride 2": (3, 2, 1, (11, 8)),
    "3x3, few outputs": (3, 1, 1, (17, 20), 4),
    "3x3, one output": (3, 1, 1, (17, 20), 1),
}
DENSE = {"memory_format": torch.channels_last}


def results(layer, x, grad, dtype):
    """y and the gradients of x, weight and bias, f32."""
    layer.zero_grad(set_to_none=True)
    x = x.clone(**DENSE).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        y = layer(x.to(dtype, **DENSE))
    y.backward(grad.to(y.dtype))
    return [t.float() for t in (y.detach(), x.grad, *(p.grad for p in layer.parameters()))]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_as_exact_as_torchs_own(name, bias):
    kernel, stride, padding, size, *outputs = LAYERS[name]
    torch.manual_seed(0)
    layer = nn.Conv2d(16, *(outputs or [24]), kernel, stride, padding, bias=bias).to(**DENSE)
    x = torch.randn(4, 16, *size)
    grad = torch.randn_like(layer(x))
    truth = results(layer, x, grad, torch.float32)
    own = results(layer, x, grad, torch.bfloat16)
    assert quick_conv(layer) == 1
    assert layer._quick_kind(x.bfloat16().contiguous(**DENSE), layer.weight) is not None
    quick = results(layer, x, grad, torch.bfloat16)
    for found, reference, exact in zip(quick, own, truth, strict=True):
        assert found.shape == exact.shape
        assert relative_error(found, exact) <= 1.5 * relative_error(reference, exact) + 1e-3


def test_stride_2_on_a_map_of_one_column():
    """P7 of an image up to 64 px wide: torch's own weight gradient reads uninitialised memory there."""
    torch.manual_seed(0)
    layer = nn.Conv2d(16, 24, 3, 2, 1).to(**DENSE)
    x = torch.randn(4, 16, 4, 1)
    grad = torch.randn_like(layer(x))
    truth = results(layer, x, grad, torch.float32)
    assert quick_conv(layer) == 1
    for found, exact in zip(results(layer, x, grad, torch.bfloat16), truth, strict=True):
        assert relative_error(found, exact) < 0.01


def test_patches():
    """Equal to torch's unfold, in another order."""
    x = torch.randn(2, 3, 4, 5).contiguous(**DENSE)
    expected = F.unfold(x, 3, padding=1).view(2, 3, 9, 20).permute(0, 3, 2, 1).reshape(40, 27)
    assert torch.equal(patches_of(x), expected)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 8, 3, (2, 1), 1),
        nn.Conv2d(8, 8, 3, 1, 2, dilation=2),
        nn.Conv2d(8, 8, 3, 1, 1, groups=2),
        nn.Conv2d(8, 8, 3, 1, 1, padding_mode="reflect"),
        nn.Conv2d(8, 8, 1, padding=1),
    ],
    ids=["stride", "dilation", "groups", "reflect", "padding"],
)
def test_other_layers_are_torchs_own(layer):
    x = torch.randn(1, 8, 6, 6).bfloat16().contiguous(**DENSE)
    layer = layer.bfloat16()
    expected = layer(x)
    layer.__class__ = QuickConv2d
    assert layer._quick_kind(x, layer.weight) is None and torch.equal(layer(x), expected)


def test_other_inputs_are_torchs_own():
    layer = nn.Conv2d(8, 8, 1).to(torch.bfloat16)
    layer.__class__ = QuickConv2d
    x = torch.randn(2, 8, 6, 6).bfloat16()
    assert layer._quick_kind(x, layer.weight) is None  # not channels_last
    dense = x.contiguous(**DENSE)
    assert layer._quick_kind(dense, layer.weight) is not None
    assert layer._quick_kind(dense.float(), layer.weight) is not None
    assert layer._quick_kind(dense.double(), layer.weight) is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer._quick_kind(dense.float(), layer.weight) is None  # autocast would convert it to bf16
    with torch.no_grad():
        assert layer._quick_kind(dense, layer.weight) is None
    layer.weight.requires_grad_(False)
    assert layer._quick_kind(dense, layer.weight) is None


def test_a_weight_of_several_maps_is_cast_once():
    layer = nn.Conv2d(8, 8, 3, padding=1, bias=False).to(**DENSE)
    layer.__class__ = QuickConv2d
    maps = [torch.randn(2, 8, n, n).bfloat16().contiguous(**DENSE) for n in (10, 5, 3)]

    def weights_of(outputs):
        return {y.grad_fn.next_functions[1][0] for y in outputs}

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert len(weights_of([layer(x) for x in maps])) == 3
        with shared_casts():
            outputs = [layer(x) for x in maps]
    assert len(weights_of(outputs)) == 1
    sum(y.float().square().sum() for y in outputs).backward()
    found, layer.weight.grad = layer.weight.grad, None
    sum(F.conv2d(x.float(), layer.weight, padding=1).square().sum() for x in maps).backward()
    assert relative_error(found, layer.weight.grad) < 0.01


def test_folded_norms_are_quick_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16)).to(**DENSE).eval()
    model[1].running_var.uniform_(0.5, 2)
    model[1].requires_grad_(False)
    x = torch.randn(2, 16, 8, 8)
    expected = model(x)
    assert fold_frozen_bn(model) == ["0"] and quick_conv(model) == 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model(x.to(torch.bfloat16, **DENSE))
    assert type(y.grad_fn).__name__ == "_PointwiseConvBackward"
    assert relative_error(y.float(), expected) < 0.01
