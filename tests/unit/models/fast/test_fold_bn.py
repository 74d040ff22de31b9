"""Frozen BatchNorm folded into convolutions: the same outputs, gradients and state_dict."""

import copy

import pytest
import torch
from mmcv.cnn import ConvModule
from mmdet.models.backbones import ResNet
from mmengine.model import ExponentialMovingAverage
from torch import nn

from fcos_train.models.fast.fold_bn import FoldedConv2d, fold_frozen_bn, folded_frozen_bn, unfold_frozen_bn

NETS = {  # options, number of convolutions
    "resnet18": ({"depth": 18, "style": "pytorch"}, 20),
    "resnet50 caffe": ({"depth": 50, "style": "caffe"}, 53),
    "resnet50 deep stem": ({"depth": 50, "deep_stem": True, "avg_down": True}, 55),
}


def _randomize(model):
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in (
                (module.weight, 0.5),
                (module.bias, -0.3),
                (module.running_mean, -0.3),
                (module.running_var, 0.7),
            ):
                tensor.data.copy_(low + 0.6 * torch.rand(tensor.shape, generator=generator))
    return model


def _net(requires_grad=False, **options):
    net = ResNet(
        base_channels=8,
        frozen_stages=1,
        norm_cfg={"type": "BN", "requires_grad": requires_grad},
        norm_eval=True,
        **options,
    )
    net.train()  # returns None in mmdet
    return _randomize(net)


def _run(net, x):
    net.zero_grad()
    outputs = net(x)
    sum((level * level).mean() for level in outputs).backward()
    return outputs, {
        name: parameter.grad.clone() for name, parameter in net.named_parameters() if parameter.grad is not None
    }


@pytest.mark.parametrize("name", NETS)
def test_outputs_and_gradients(name):
    options, convolutions = NETS[name]
    net = _net(**options)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    keys = list(net.state_dict())
    expected, gradients = _run(net, x)
    assert len(fold_frozen_bn(net)) == convolutions
    assert fold_frozen_bn(net) == []
    outputs, folded_gradients = _run(net, x)
    for output, reference in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, reference, rtol=1e-5, atol=1e-5 * reference.abs().max().item())
    assert set(folded_gradients) == set(gradients) and len(gradients) > 10
    for key, gradient in gradients.items():
        torch.testing.assert_close(folded_gradients[key], gradient, rtol=1e-4, atol=1e-4 * gradient.abs().max().item())
    assert list(net.state_dict()) == keys
    unfold_frozen_bn(net)
    for output, reference in zip(net(x), expected, strict=True):
        assert torch.equal(output, reference)
    assert not list(buffer for buffer, _ in net.named_buffers() if "folded" in buffer)


def test_weights_loaded_later_count():
    x = torch.randn(1, 3, 64, 64)
    net, other = _net(depth=18), _net(depth=18)
    fold_frozen_bn(net)
    for module in other.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.mul_(1.7)
    other.conv1.weight.data.mul_(1.3)
    net.load_state_dict(other.state_dict())
    for output, reference in zip(net(x), other(x), strict=True):
        torch.testing.assert_close(output, reference, rtol=1e-5, atol=1e-5)


def test_copies_stand_alone():
    x = torch.randn(1, 3, 64, 64)
    net = _net(depth=18)
    fold_frozen_bn(net)
    twin = copy.deepcopy(net)
    assert torch.equal(twin(x)[-1], net(x)[-1])
    assert twin.conv1._partner[0] is twin.norm1 and twin.conv1._partner[0] is not net.norm1
    before = twin(x)[-1]
    with torch.no_grad():
        net.layer4[0].conv1.weight.mul_(3)
    assert torch.equal(twin(x)[-1], before) and not torch.equal(net(x)[-1], before)


def test_an_ema_made_before_the_folding_goes_on():
    net = _net(depth=18, style="pytorch")
    average = ExponentialMovingAverage(net, momentum=0.5)
    fold_frozen_bn(net)
    average.update_parameters(net)  # takes over the weights
    net.layer4[0].conv1.weight.data.add_(1.0)
    expected = net.layer4[0].conv1.weight.detach() - 0.5
    average.update_parameters(net)
    torch.testing.assert_close(average.module.layer4[0].conv1.weight, expected)
    for (name, own), (other, value) in zip(net.named_buffers(), average.module.named_buffers(), strict=True):
        assert name == other and torch.equal(own, value)
    net.to(torch.float64)
    assert net.conv1.folded_scale.dtype == net.layer4[0].conv1.folded_bias.dtype == torch.float64


def test_a_thawed_norm_works_again():
    net = _net(depth=18)
    x = torch.randn(2, 3, 64, 64)
    with folded_frozen_bn(net) as names:
        assert "conv1" in names and type(net.conv1) is FoldedConv2d
        net.norm1.train()
        mean = net.norm1.running_mean.clone()
        net(x)
        assert not torch.equal(net.norm1.running_mean, mean)
    assert type(net.conv1) is nn.Conv2d


def test_trainable_norms_stay():
    assert all(
        name == "conv1" or name.startswith("layer1") for name in fold_frozen_bn(_net(requires_grad=True, depth=18))
    )


def test_conv_module_bias_and_a_shared_convolution():
    module = ConvModule(3, 4, 3, bias=True, norm_cfg={"type": "BN", "requires_grad": False})
    shared = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    shared[1].requires_grad_(False)
    model = _randomize(nn.ModuleList([module, shared, nn.Sequential(shared[0], copy.deepcopy(shared[1]))])).eval()
    x = torch.randn(1, 3, 8, 8)
    expected = module(x)
    assert fold_frozen_bn(model) == ["0.conv"]
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-6)


def test_folded_net_is_one_graph():
    net = _net(depth=18)
    x = torch.randn(1, 3, 32, 32)
    fold_frozen_bn(net)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x)[-1], net(x)[-1])


def test_unfrozen_and_frozen_again():
    """requires_grad may change at any time; constants of weights that were trained meanwhile are recomputed."""
    net = _net(depth=18).double()
    plain = copy.deepcopy(net)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fold_frozen_bn(net)

    def step(thawed):
        for model in (net, plain):
            model.conv1.weight.requires_grad_(thawed)  # frozen_stages=1: conv1, bn1 and layer1 are frozen
            model.norm1.requires_grad_(thawed)
            model.layer1[0].conv1.weight.requires_grad_(thawed)
        outputs, gradients = _run(net, x)
        expected, reference = _run(plain, x)
        assert set(gradients) == set(reference) and ("bn1.bias" in gradients) == ("conv1.weight" in gradients) == thawed
        for key, value in reference.items():
            torch.testing.assert_close(gradients[key], value, rtol=1e-6, atol=1e-9, msg=key)
        for output, value in zip(outputs, expected, strict=True):
            torch.testing.assert_close(output, value, rtol=1e-6, atol=1e-9)
        for model in (net, plain):  # as an optimizer does
            for key, p in model.named_parameters():
                if p.grad is not None:
                    p.data.add_(reference[key], alpha=-0.1)

    for thawed in (False, True, True, False, True, False):
        step(thawed)
    assert net.conv1.constant_weight is not None
