"""The ordered list of fast paths: its log lines, and the order of its steps."""

import pytest
import torch
from mmdet.models.backbones import ResNet
from mmdet.models.backbones.res2net import Res2Net
from torch import nn

from fcos_train.models.fast.apply import cpu_paths_off, make_fast
from fcos_train.models.fast.cpu_block import QuickBlock
from fcos_train.models.fast.cpu_conv import QuickConv2d, QuickFoldedConv2d, is_quick_map
from fcos_train.models.fast.fold_bn import FoldedConv2d, fold_frozen_bn
from tests.support.steps import small_model

FROZEN = {"norm_cfg": {"type": "BN", "requires_grad": False}, "norm_eval": True, "base_channels": 8}


def lines_of(model, **options):
    lines = []
    make_fast(model, lines.append, **options)
    return lines


def test_a_resnet_is_covered_completely():
    net = ResNet(50, **FROZEN)
    assert lines_of(net) == ["53 frozen norms folded into their convolutions"]
    assert type(net.conv1) is QuickFoldedConv2d and type(net.layer1[0]).__bases__[0] is QuickBlock
    assert fold_frozen_bn(net) == []


@pytest.mark.parametrize("fold", [True, False])
def test_blocks_without_a_fast_path_are_named_in_one_line(fold):
    """Norms that the folding does not cover, and on a CPU blocks without a fast form."""
    lines = lines_of(Res2Net(depth=50, scales=4, base_width=26, **FROZEN), fold=fold)
    blocks = "16 residual blocks (16 in Bottle2neck)"
    assert len(lines) == 1 + fold
    assert lines[-1] == (
        f"without a fast path: 80 frozen norms (80 in Bottle2neck); {blocks}"
        if fold
        else f"without a fast path: {blocks}"
    )


def test_trainable_norms_are_not_reported():
    assert lines_of(ResNet(18, norm_cfg={"type": "BN"}, base_channels=8)) == []


def test_levels_are_merged_where_the_towers_allow_it():
    model = small_model("fcos-gn")
    assert "the head's levels are merged" in lines_of(model, merge_levels=True) and model.bbox_head.merge_levels
    model = small_model("fcos-gn")
    model.bbox_head.cls_convs[0].register_forward_hook(lambda *_: None)
    assert "the head runs level by level: a hook on a layer of a tower" in lines_of(model, merge_levels=True)
    assert not model.bbox_head.merge_levels


def test_folding_alone_does_not_need_a_cpu():
    """A folded convolution is independent of the CPU code, and its fast form is still folded."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4).requires_grad_(False)).eval()
    fold_frozen_bn(model)
    assert type(model[0]) is FoldedConv2d and not isinstance(model[0], QuickConv2d)
    assert lines_of(model) == [] and isinstance(model[0], (QuickConv2d, FoldedConv2d))


def test_cpu_only_paths_can_be_disabled():
    x = torch.zeros(1, 8, 4, 4).contiguous(memory_format=torch.channels_last)
    with cpu_paths_off():
        assert not is_quick_map(x)
    assert is_quick_map(x)
