"""All levels on one canvas: losses and gradients equal those of mmdet's heads."""

import copy

import pytest
import torch
from torch import nn

from fcos_train.geometry.level_canvas import canvas_of, inside, level_rows, level_shares
from fcos_train.models.fast.towers import can_merge, obstacle
from fcos_train.models.fast.towers_on_canvas import _CanvasGroupNormReLU, _Pack
from tests.support.heads import (
    FCOS_TRICKS,
    MERGED_FCOS,
    SCENES,
    Scene,
    assert_equal,
    fcos_pair,
    fsaf_pair,
    losses_and_gradients_of_padded,
)

COCO = ((100, 168), (50, 84), (25, 42), (13, 21), (7, 11))
FCOS = {
    **MERGED_FCOS,
    "centre sampling": {"center_sampling": True},
    "other box loss": {"loss_bbox": {"type": "DIoULoss", "loss_weight": 1.5}},
}


def test_the_layout_of_800x1344():
    canvas = canvas_of(COCO)
    assert (canvas.height, canvas.width) == (100, 253)
    assert canvas.places == ((0, 0), (0, 169), (51, 169), (51, 212), (51, 234))
    points = sum(rows * columns for rows, columns in COCO)
    assert inside(canvas, torch.device("cpu")).sum() == points
    assert points / (100 * 253) == pytest.approx(0.885, abs=1e-3)


@pytest.mark.parametrize(
    "sizes", [COCO, tuple((c, r) for r, c in COCO), ((40, 40), (20, 20), (10, 10), (5, 5), (3, 3)), ((9, 4),)]
)
def test_maps_do_not_touch(sizes):
    canvas = canvas_of(sizes)
    taken = torch.zeros(canvas.height + 2, canvas.width + 2)
    for (rows, columns), (top, left) in zip(canvas.sizes, canvas.places, strict=True):
        assert top + rows <= canvas.height and left + columns <= canvas.width
        around = taken[top : top + rows + 2, left : left + columns + 2]
        assert not around.any()  # one position on every side
        taken[top + 1 : top + rows + 1, left + 1 : left + columns + 1] = 1
    assert canvas.sizes == sizes


def test_membership():
    canvas = canvas_of(((2, 3), (1, 2)))  # the second below the first: 4x3 positions, or beside it: 2x6
    device = torch.device("cpu")
    assert (canvas.height, canvas.width) == (2, 6)
    assert level_rows(canvas, device).tolist() == [
        [1, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0],
    ]
    assert level_shares(canvas, device, 2).sum(1).tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("option", FCOS)
@pytest.mark.parametrize("scene", SCENES)
def test_fcos_equal_to_mmdet(option, scene):
    ours, theirs = fcos_pair(**FCOS[option])
    ours.merge_levels = True
    assert can_merge(ours.cls_convs, ours.reg_convs)
    assert_equal(ours, theirs, Scene(scene), run=losses_and_gradients_of_padded)


@pytest.mark.parametrize("scene", SCENES)
def test_fsaf_equal_to_mmdet(scene):
    ours, theirs = fsaf_pair()
    ours.merge_levels = True
    assert can_merge(ours.cls_convs, ours.reg_convs)
    assert_equal(ours, theirs, Scene(scene), run=losses_and_gradients_of_padded)


@pytest.mark.parametrize("size", [(256, 192), (250, 130)])
def test_equal_for_other_sizes(size):
    ours, theirs = fcos_pair(classes=80, **FCOS_TRICKS)
    ours.merge_levels = True
    assert_equal(ours, theirs, Scene("mixed", classes=80, size=size, seed=5), run=losses_and_gradients_of_padded)


def test_group_norm_of_a_large_mean():
    """The variance is exact, because values are centred before they are squared."""
    canvas, layer = canvas_of(((6, 8), (3, 4))), nn.GroupNorm(2, 4)
    exact = copy.deepcopy(layer).double()
    maps = [torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(3)) + 300 for size in canvas.sizes]
    merged = _CanvasGroupNormReLU.apply(_Pack.apply(canvas, *maps), layer.weight, layer.bias, canvas, 2, layer.eps)
    for level, (rows, columns) in zip(maps, canvas.regions(), strict=True):
        assert torch.allclose(merged[:, :, rows, columns].double(), exact(level.double()).relu(), atol=1e-4)
    assert merged.flatten(2)[:, :, inside(canvas, torch.device("cpu")) == 0].abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    """Under autocast the canvas deviates from float32 at most twice as far as running level by level."""
    ours, _ = fcos_pair()
    scene = Scene("some")
    exact, _ = losses_and_gradients_of_padded(ours, scene)
    found = {}
    for merge in (False, True):
        ours.merge_levels = merge
        with torch.autocast("cpu", dtype=dtype):
            found[merge], gradients = losses_and_gradients_of_padded(ours, scene)
        assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    for name, value in exact.items():
        assert abs(found[True][name] - value) <= 2 * abs(found[False][name] - value) + 5e-3 * value, name


OBSTACLES = {
    "SharedBN": {"norm_cfg": {"type": "SharedBN", "requires_grad": True}},
    "ModulatedDeformConv2dPack": {"dcn_on_last_conv": True},
}


@pytest.mark.parametrize("word", OBSTACLES)
def test_other_towers_are_named(word):
    ours, _ = fcos_pair(**OBSTACLES[word])
    assert word in obstacle(ours.cls_convs, ours.reg_convs)
