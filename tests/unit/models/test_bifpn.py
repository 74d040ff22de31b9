"""BiFPN against its equations written out, its sizes and its messages; the separable convolution in it."""

import pytest
import torch
import torch.nn.functional as F

from fcos_train.models import BiFPN, SeparableConv2d
from mmcv_overrides.errors import UserError

CHANNELS = [5, 6, 7]


def neck_and_maps(**options):
    torch.manual_seed(0)
    neck = BiFPN(CHANNELS, 8, num_repeats=2, **options)
    for part in neck.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.normal_(part.bias)
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2.0)
    maps = [torch.randn(2, width, 32 // 2**level, 16 // 2**level) for level, width in enumerate(CHANNELS)]
    return neck.eval(), maps


def expected_of(neck, maps):
    """The EfficientDet paper, figure 2 (d), with sums; ReLU, separable convolution and norm at each node."""
    state = neck.state_dict()

    def norm(name, x):
        values = [state[f"{name}.{leaf}"] for leaf in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *values, eps=1e-5)

    def lateral(index, x):
        return norm(f"lateral_convs.{index}.bn", F.conv2d(x, state[f"lateral_convs.{index}.conv.weight"]))

    def node(name, total):
        x = F.conv2d(F.relu(total), state[f"{name}.conv.depthwise.weight"], padding=1, groups=8)
        return norm(f"{name}.bn", F.conv2d(x, state[f"{name}.conv.pointwise.weight"]))

    def pool(x):
        return F.max_pool2d(x, 3, 2, 1)

    def twice(x):
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    p3, p4, p5 = (lateral(index, x) for index, x in enumerate(maps))
    p6 = pool(lateral(3, maps[2]))
    p7 = pool(p6)
    for repeat in range(2):
        down, up = f"layers.{repeat}.top_down", f"layers.{repeat}.bottom_up"
        t6 = node(f"{down}.3", p6 + twice(p7))
        t5 = node(f"{down}.2", p5 + twice(t6))
        t4 = node(f"{down}.1", p4 + twice(t5))
        p3 = node(f"{down}.0", p3 + twice(t4))
        p4 = node(f"{up}.0", p4 + t4 + pool(p3))
        p5 = node(f"{up}.1", p5 + t5 + pool(p4))
        p6 = node(f"{up}.2", p6 + t6 + pool(p5))
        p7 = node(f"{up}.3", p7 + pool(p6))
    return p3, p4, p5, p6, p7


def test_every_level_is_the_papers():
    neck, maps = neck_and_maps()
    with torch.no_grad():
        found, expected = neck(maps), expected_of(neck, maps)
    assert [tuple(level.shape) for level in found] == [(2, 8, 32 // 2**n, 16 // 2**n) for n in range(5)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_parameters():
    """A lateral has C_in C + 2 C, a node 9 C + C C + 2 C; a repeat has eight nodes."""
    count = sum(value.numel() for value in BiFPN([40, 112, 320], 64, num_repeats=3).parameters())
    assert count == (40 + 112 + 320 + 320) * 64 + 4 * 128 + 3 * 8 * (9 * 64 + 64 * 64 + 128) == 166_400


def test_levels_of_the_backbone_alone():
    neck, maps = neck_and_maps(num_outs=3)
    assert (len(neck.lateral_convs), neck.divisor) == (3, 32)
    narrow = [x[..., : 8 // 2**level] for level, x in enumerate(maps)]
    assert [tuple(level.shape[2:]) for level in neck(narrow)] == [(32, 8), (16, 4), (8, 2)]


@pytest.mark.parametrize("size", [(24, 16), (32, 15)])
def test_other_sizes_get_one_line(size):
    neck, _ = neck_and_maps()
    maps = [torch.zeros(1, width, -(-size[0] // 2**n), -(-size[1] // 2**n)) for n, width in enumerate(CHANNELS)]
    line = f"multiples of 128 px; the map of stride 8 is {size[0]} x {size[1]}: set .*pad_size_divisor=128"
    with pytest.raises(UserError, match=line):
        neck(maps)


def test_one_value_has_no_variance():
    neck, _ = neck_and_maps()
    with pytest.raises(UserError, match="one image of 128 x 128 px .* batch size"):
        neck.train()([torch.zeros(1, width, 16 // 2**n, 16 // 2**n) for n, width in enumerate(CHANNELS)])


def test_fewer_levels_than_maps():
    with pytest.raises(UserError, match="neck.num_outs=2 is fewer than the 3 maps"):
        BiFPN(CHANNELS, 8, num_repeats=1, num_outs=2)


def test_a_separable_convolution_is_its_product():
    """A depthwise kernel d and a pointwise matrix m are the kernel m[o, c] d[c]."""
    torch.manual_seed(0)
    layer = SeparableConv2d(4, 6, 3, stride=2, padding=1)
    kernel = layer.pointwise.weight * layer.depthwise.weight.squeeze(1)
    x = torch.randn(2, 4, 9, 10)
    torch.testing.assert_close(layer(x), F.conv2d(x, kernel, layer.pointwise.bias, stride=2, padding=1))
    assert (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (2, 2), (1, 1))


def test_a_separable_convolution_has_no_groups():
    with pytest.raises(UserError, match="groups=2"):
        SeparableConv2d(4, 4, 3, groups=2)
