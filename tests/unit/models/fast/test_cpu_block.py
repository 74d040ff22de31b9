"""Residual blocks as one function: values and gradients equal those of mmdet's blocks, up to bf16 rounding."""

import copy

import pytest
import torch
from mmdet.models.backbones import ResNet, resnet, resnext
from torch import nn

from fcos_train.models.fast import cpu_block, cpu_conv
from fcos_train.models.fast.cpu_block import QuickBlock, quick_blocks
from fcos_train.models.fast.cpu_conv import (
    POINTWISE,
    SAME,
    ConvParams,
    by_input,
    by_weight,
    quick_conv,
    spread,
    thinned,
)
from fcos_train.models.fast.fold_bn import fold_frozen_bn
from tests.support.noise import relative_error

DENSE = {"memory_format": torch.channels_last}
# On processors that only emulate bf16, oneDNN has these convolutions in fp32 only.
HAS_BF16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
TYPES = [
    pytest.param(
        torch.bfloat16, id="bf16", marks=pytest.mark.skipif(not HAS_BF16, reason="needs a processor with bf16")
    ),
    pytest.param(torch.float32, id="fp32"),
]
FROZEN = {"type": "BN", "requires_grad": False}
# class, planes in and out of the branch, arguments
BLOCKS = {
    "basic": (resnet.BasicBlock, 16, 16, {}),
    "basic, stride 2": (resnet.BasicBlock, 8, 16, {"stride": 2, "downsample": True}),
    "bottleneck": (resnet.Bottleneck, 32, 8, {"style": "caffe"}),
    "bottleneck, wider": (resnet.Bottleneck, 8, 8, {"style": "caffe", "downsample": True}),
    "caffe, stride 2": (resnet.Bottleneck, 16, 8, {"style": "caffe", "stride": 2, "downsample": True}),
    "pytorch, stride 2": (resnet.Bottleneck, 16, 8, {"style": "pytorch", "stride": 2, "downsample": True}),
    "dilated": (resnet.Bottleneck, 32, 8, {"style": "pytorch", "dilation": 2}),
    "resnext": (resnext.Bottleneck, 64, 16, {"style": "pytorch", "groups": 4, "base_width": 16}),
}


def block(name, seed=0, **more):
    kind, inside, planes, options = BLOCKS[name]
    options = {**options, **more, "norm_cfg": FROZEN}
    stride = options.get("stride", 1)
    torch.manual_seed(seed)
    if options.get("downsample"):
        outside = planes * kind.expansion
        options["downsample"] = nn.Sequential(
            nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
        )
        options["downsample"][1].requires_grad_(False)
    layer = kind(inside, planes, **options).eval()
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
            module.running_mean.normal_(0, 0.3)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
    return layer.to(**DENSE), torch.randn(4, inside, 13, 9).to(torch.bfloat16, **DENSE)


def quick(layer):
    layer = copy.deepcopy(layer)
    fold_frozen_bn(layer)
    quick_conv(layer)
    assert quick_blocks(layer) == 1 and isinstance(layer, QuickBlock)
    return layer


def results(layer, x, half, grad=None):
    """y, gradient of x, gradients by name; f32."""
    layer.zero_grad(set_to_none=True)
    x = (x if half else x.float()).clone(**DENSE).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        y = layer(x)
    generator = torch.Generator().manual_seed(1)
    y.backward(torch.randn(y.shape, generator=generator).to(y.dtype) if grad is None else grad)
    gradients = {name: parameter.grad for name, parameter in layer.named_parameters() if parameter.grad is not None}
    assert all(gradient.dtype == torch.float32 for gradient in gradients.values())
    return {"y": y.detach().float(), "x": x.grad.float(), **gradients}


@pytest.mark.parametrize("amx", [True, False], ids=["amx", "no amx"])
@pytest.mark.parametrize("name", BLOCKS)
def test_no_noisier_than_mmdets(name, amx, monkeypatch):
    monkeypatch.setattr(cpu_conv, "HAS_AMX", amx)
    monkeypatch.setattr(cpu_conv, "MOST_PIXELS", 200)  # below and above it in one test: 468 and 140 pixels
    squares = {}  # summed over seeds, because a single value near 0 may change sign at a ReLU
    for seed in range(8):
        layer, x = block(name, seed)
        truth, theirs, ours = results(layer, x, False), results(layer, x, True), results(quick(layer), x, True)
        assert ours.keys() == truth.keys()
        for key, exact in truth.items():
            assert ours[key].shape == exact.shape
            own, reference = squares.get(key, (0, 0))
            squares[key] = (
                own + relative_error(ours[key], exact) ** 2,
                reference + relative_error(theirs[key], exact) ** 2,
            )
    for key, (own, reference) in squares.items():
        assert own**0.5 <= 1.5 * reference**0.5, key
        assert (own / 8) ** 0.5 < 0.1, key


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", BLOCKS)
def test_it_runs_as_one_function(name, dtype):
    layer, x = block(name)
    layer = quick(layer)
    y = layer(x.to(dtype))
    assert type(y.grad_fn).__name__ == "_BlockBackward"
    assert y.is_contiguous(**DENSE)
    assert set(layer.state_dict()) == set(block(name)[0].state_dict())


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ["basic", "caffe, stride 2"])
def test_frozen_weights(name, dtype):
    """Frozen weights have no gradient, and a block of frozen weights is not part of the graph."""
    layer, x = block(name)
    layer.conv1.weight.requires_grad_(False)
    layer = quick(layer)
    y = layer(x.to(dtype))  # x is data
    y.sum().backward()
    assert layer.conv1.weight.grad is None and layer.conv2.weight.grad is not None
    layer, x = block(name)
    expected = results(layer, x, False)["y"]
    y = quick(layer.requires_grad_(False))(x.to(dtype))
    assert not y.requires_grad and relative_error(y.float(), expected) < 0.01


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", ["conv1", "conv2", "conv3"])
def test_a_broken_weight_shows(name, dtype):
    """oneDNN's ReLU would turn NaN into 0 and hide it from the guard."""
    layer, x = block("bottleneck")
    layer = quick(layer)
    getattr(layer, name).weight.data[3, 2] = float("nan")
    y = layer(x.to(dtype, **DENSE))
    assert type(y.grad_fn).__name__ == "_BlockBackward" and y.isnan().any()


def test_processors_without_these_convolutions(monkeypatch):
    layer, x = block("bottleneck")
    layer = quick(layer)
    monkeypatch.setattr(cpu_block, "_is_fused", lambda dtype: dtype == torch.float32)
    assert type(layer(x.float()).grad_fn).__name__ == "_BlockBackward"
    assert type(layer.bfloat16()(x).grad_fn).__name__ != "_BlockBackward"


def test_the_input_is_left_as_it_was():
    """In-place operations only touch memory that the block owns, forward and backward."""
    layer, x = block("bottleneck")
    layer = quick(layer)
    before, x = x.clone(), x.requires_grad_()
    y = layer(x)
    grad = torch.ones_like(y)
    y.backward(grad)
    assert torch.equal(x.detach(), before) and torch.equal(grad, torch.ones_like(y))


def thaw(layer):
    layer.norm2.train()


def listen(layer):
    layer.conv2.register_forward_hook(lambda *_: None)


def listen_below(layer):
    layer.downsample[0].register_forward_pre_hook(lambda *_: None)


def checkpoint(layer):
    layer.with_cp = True


def average(layer):
    layer.downsample.insert(0, nn.AvgPool2d(1))


@pytest.mark.parametrize("change", [thaw, listen, listen_below, checkpoint, average])
def test_anything_else_is_mmdets_own(change):
    layer, x = block("bottleneck, wider")
    layer = quick(layer)
    assert layer._convs() is not None
    change(layer)
    assert layer._convs() is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.isfinite(layer(x.requires_grad_())).all()


def test_plugins_are_mmdets_own():
    plugins = [{"cfg": {"type": "ContextBlock", "ratio": 0.25}, "position": "after_conv3"}]
    layer, _ = block("bottleneck", plugins=plugins)
    assert quick(layer)._convs() is None


@pytest.mark.parametrize("name", BLOCKS)
def test_float32(name):
    layer, x = block(name)
    truth, ours = results(layer, x, False), results(quick(layer), x, False)
    assert ours.keys() == truth.keys()
    for key, exact in truth.items():
        assert relative_error(ours[key], exact) < 2e-6, key


def test_other_types_are_mmdets_own():
    """Float64; and float32 where autocast would make the convolutions bf16."""
    layer, x = block("bottleneck")
    expected = results(layer, x, False)["y"]
    layer = quick(layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x.float())
    assert type(y.grad_fn).__name__ != "_BlockBackward" and relative_error(y.float(), expected) < 0.01
    y = layer.double()(x.double())
    assert type(y.grad_fn).__name__ != "_BlockBackward" and relative_error(y.float(), expected) < 1e-6


def test_a_whole_network_and_a_second_call():
    torch.manual_seed(0)
    net = ResNet(50, base_channels=8, frozen_stages=1, norm_cfg=FROZEN, norm_eval=True, style="caffe").to(**DENSE)
    net.init_weights()
    net.train()
    x = torch.randn(2, 3, 64, 64).contiguous(**DENSE)
    expected = net(x)
    assert len(fold_frozen_bn(net)) == 53
    quick_conv(net)
    assert quick_blocks(net) == 16 and quick_blocks(net) == 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = net(x)
    for one, other in zip(found, expected, strict=True):
        assert relative_error(one.float(), other) < 0.02
    before = net.layer2[0].conv2.folded_bias
    net.layer2[0].norm2.bias.data.add_(1)
    assert fold_frozen_bn(net) == []  # nothing new is folded, but constants are recomputed in blocks too
    assert torch.allclose(net.layer2[0].conv2.folded_bias, before + 1)


CONVOLUTIONS = {  # kernel, output channels, parameters
    "1x1": (1, 12, POINTWISE),
    "3x3": (3, 12, SAME),
    "3x3, few outputs": (3, 4, SAME),
    "3x3, stride 2": (3, 12, ConvParams((2, 2), (1, 1), (1, 1), 1)),
    "3x3, groups": (3, 12, ConvParams((1, 1), (1, 1), (1, 1), 2)),
}


@pytest.mark.parametrize("size", [(7, 5), (13, 14)])  # below and above SMALL_MAP = 144 positions
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_gradients_of_a_convolution(name, size):
    """In float64, where the order of a sum does not matter."""
    kernel, outputs, where = CONVOLUTIONS[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, *size, generator=generator, dtype=torch.float64).contiguous(**DENSE).requires_grad_()
    shape = (outputs, 6 // where.groups, kernel, kernel)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    y = torch.nn.functional.conv2d(x, weight, None, *where)
    grad = torch.randn(y.shape, generator=generator, dtype=torch.float64).contiguous(**DENSE)
    y.backward(grad)
    onto = torch.ones_like(x).contiguous(**DENSE)
    assert torch.allclose(by_input(grad, x.detach(), weight.detach(), where), x.grad)
    found = by_input(grad, x.detach(), weight.detach(), where, onto=onto)
    assert found.data_ptr() == onto.data_ptr() and torch.allclose(found, x.grad + 1)
    assert torch.allclose(by_weight(grad, x.detach(), weight.detach(), where), weight.grad)


def test_thinned_and_spread():
    x = torch.arange(24.0).view(1, 2, 3, 4).contiguous(**DENSE)
    near = thinned(x, 2)
    assert near.tolist() == [[[[0, 2], [8, 10]], [[12, 14], [20, 22]]]]
    assert spread(near, x.shape, 2)[0, 0].tolist() == [[0, 0, 2, 0], [0, 0, 0, 0], [8, 0, 10, 0]]
    assert cpu_block._common_stride([nn.Conv2d(8, 8, 1, 2), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1, 2)], 1) == 2
    assert cpu_block._common_stride([nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1, 2)], 1) == 1
