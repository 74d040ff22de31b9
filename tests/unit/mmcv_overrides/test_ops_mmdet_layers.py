"""Layers of mmdet whose operators are rare: each trains and all its parameters get a gradient."""

import pytest
import torch


def maps(channels, *sides):
    torch.manual_seed(0)
    return [torch.randn(1, channels, side, side * 3 // 2, requires_grad=True) for side in sides]


def check_gradients(layer, outputs, inputs):
    sum(out.square().sum() for out in outputs).backward()
    for name, tensor in [*layer.named_parameters(), *((f"input {i}", x) for i, x in enumerate(inputs))]:
        assert tensor.grad is not None and tensor.grad.isfinite().all(), name


def test_dyhead_applies_offsets_of_a_finer_level_to_a_coarser_one():
    from mmdet.models.necks import DyHead

    neck, inputs = DyHead(16, 16, num_blocks=1), maps(16, 16, 8, 4)
    outputs = neck(inputs)
    assert [out.shape for out in outputs] == [x.shape for x in inputs]
    check_gradients(neck, outputs, inputs)


def test_carafe_pyramid():
    from mmdet.models.necks import FPN_CARAFE

    neck = FPN_CARAFE(
        [4, 8],
        8,
        3,
        norm_cfg=None,
        upsample_cfg={
            "type": "carafe",
            "up_kernel": 5,
            "up_group": 1,
            "encoder_kernel": 3,
            "encoder_dilation": 1,
            "compressed_channels": 4,
        },
    )
    torch.manual_seed(0)
    inputs = [torch.randn(1, 4, 16, 24, requires_grad=True), torch.randn(1, 8, 8, 12, requires_grad=True)]
    outputs = neck(inputs)
    assert [tuple(out.shape) for out in outputs] == [(1, 8, 16, 24), (1, 8, 8, 12), (1, 8, 4, 6)]
    check_gradients(neck, outputs, inputs)


LAYERS = {
    "RoIPool": {},
    "RoIAlign": {"use_torchvision": True},
    "DeformRoIPoolPack": {"output_channels": 4, "deform_fc_channels": 8},
    "ModulatedDeformRoIPoolPack": {"output_channels": 4, "deform_fc_channels": 8},
}


@pytest.mark.parametrize("kind", LAYERS)
def test_region_extractor(kind):
    from mmdet.models.roi_heads import SingleRoIExtractor

    extractor = SingleRoIExtractor({"type": kind, "output_size": 3, **LAYERS[kind]}, 4, [4, 8], finest_scale=16)
    inputs = maps(4, 16, 8)
    rois = torch.tensor([[0.0, 2, 2, 20, 22], [0, 4, 4, 60, 56]])  # one for each level
    out = extractor(inputs, rois)
    assert out.shape == (2, 4, 3, 3)
    check_gradients(extractor, [out], inputs)


def test_the_masked_convolution_of_guided_anchoring():
    from mmcv.ops import MaskedConv2d

    torch.manual_seed(0)
    layer, input = MaskedConv2d(4, 3, 3, padding=1), torch.randn(1, 4, 5, 6)
    mask = torch.rand(1, 5, 6) > 0.5
    torch.testing.assert_close(layer(input, mask), layer(input) * mask)
