"""BatchNorm per level in dense heads: level by level, on a canvas and as rows, against one layer of mmdet per level."""

import copy

import pytest
import torch
from torch import nn

from fcos_train.models.fast import towers
from fcos_train.models.level_norm import LevelBN, LevelNorm, SharedBN
from mmcv_overrides.precision import cast_weights, keep_losses_fp32
from tests.support.heads import FCOS_TRICKS, Scene, fcos_pair, losses_and_gradients, losses_and_gradients_of_padded
from tests.support.level_norms import BN, PAIRS, level_pair, norms_of

WAYS = ("level by level", "canvas", "rows from 2", "rows from 0")
LOSSES, GRADIENTS = 1e-5, 1e-4


@pytest.fixture
def on_way(monkeypatch):
    def choose(head, way):
        head.merge_levels = way == "canvas"
        first = int(way[-1]) if way.startswith("rows") else None
        monkeypatch.setattr(towers, "first_in_rows", lambda head, x: first)
        assert towers.can_merge(head.cls_convs, head.reg_convs)
        return head

    return choose


def assert_same_step(ours, reference, scene, steps=1):
    for _ in range(steps):
        values, gradients = losses_and_gradients_of_padded(ours, scene)
        expected, by_reference = losses_and_gradients(reference, scene)
    by_reference = reference.named(by_reference.items())
    for name, value in expected.items():
        assert torch.isclose(values[name], value, rtol=LOSSES, atol=1e-7), f"{name}: {values[name]} instead of {value}"
    assert set(gradients) == set(by_reference)
    for name, gradient in by_reference.items():
        gradient = torch.zeros_like(gradients[name]) if gradient is None else gradient
        limit = GRADIENTS * gradient.abs().max().item() + 1e-6
        assert (gradients[name] - gradient).abs().max().item() <= limit, name
    running = dict(ours.named_buffers())
    for name, buffer in reference.named(reference.named_buffers()).items():
        if ".bn." in name:
            assert torch.allclose(running[name].float(), buffer.float(), rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("fcos", {}),
        ("fcos", FCOS_TRICKS),
        ("fcos", {"shared_affine": True}),
        ("fcos", {"norm": {**BN, "eps": 1e-3, "momentum": 0.3}}),
        ("fcos", {"norm": {**BN, "momentum": None}}),
        ("fcos", {"norm": {**BN, "track_running_stats": False}}),
        ("fsaf", {}),
    ],
    ids=["plain", "all tricks", "shared affine", "eps and momentum", "no momentum", "no running statistics", "fsaf"],
)
def test_a_step_equals_that_of_norms_per_level(way, kind, options, on_way):
    """Losses, gradients of maps and parameters, and running statistics after two steps."""
    ours, reference = level_pair(kind, **options)
    scene = Scene("mixed", seed=1)  # seed 1: no activation is so close to 0 that rounding changes its sign
    assert_same_step(on_way(ours, way), reference, scene, steps=2)


@pytest.mark.parametrize("way", WAYS)
def test_one_value_per_channel(way, on_way):
    """P7 of one 128 x 128 image: its running statistics normalise it and do not change. torch refuses such a map."""
    ours, reference = level_pair()
    for norm in norms_of(reference.heads[4]):
        norm.eval()
    before = {name: value.clone() for name, value in ours.named_buffers() if ".bn.4." in name}
    assert len(before) == 3 * 4
    assert_same_step(on_way(ours, way), reference, Scene("one", size=(128, 128)), steps=2)
    assert all(torch.equal(ours.get_buffer(name), value) for name, value in before.items())
    assert int(ours.cls_convs[0].bn[3].num_batches_tracked) == 2


@pytest.mark.parametrize("way", WAYS)
def test_frozen_norms(way, on_way):
    """Norms in evaluation mode within a head that trains (``norm_eval``)."""
    ours, reference = level_pair()
    for norm in (*norms_of(ours), *norms_of(reference)):
        norm.eval()
    before = copy.deepcopy(dict(ours.named_buffers()))
    assert_same_step(on_way(ours, way), reference, Scene("some"))
    assert all(torch.equal(value, before[name]) for name, value in ours.named_buffers())


@pytest.mark.parametrize("kind", PAIRS)
def test_evaluation_uses_the_statistics_of_the_level(kind):
    ours, reference = level_pair(kind)
    scene = Scene("some")
    with torch.no_grad():
        for found, expected in zip(ours.eval()(scene.feats), reference.eval()(scene.feats), strict=True):
            assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("way", ["canvas", "rows from 2"])
def test_a_large_mean(way, on_way):
    """The variance is exact, because values are centred before they are squared."""
    ours, reference = level_pair(conv_bias=True, stacked_convs=1)
    with torch.no_grad():
        for head in (ours, reference.heads[0]):
            head.cls_convs[0].conv.bias.fill_(300.0)
    assert_same_step_loosely(on_way(ours, way), reference, Scene("mixed"))


def assert_same_step_loosely(ours, reference, scene):
    values, _ = losses_and_gradients_of_padded(ours, scene)
    expected, _ = losses_and_gradients(reference, scene)
    assert all(torch.isclose(values[name], value, rtol=1e-4) for name, value in expected.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", ["canvas", "rows from 2"])
def test_half_precision(way, dtype, on_way):
    """Under autocast merged levels deviate from float32 at most twice as far as running level by level."""
    ours, _ = level_pair()
    scene = Scene("mixed")
    exact, _ = losses_and_gradients_of_padded(copy.deepcopy(ours), scene)
    found = {}
    for name in ("level by level", way):
        with torch.autocast("cpu", dtype=dtype):
            found[name], gradients = losses_and_gradients_of_padded(on_way(copy.deepcopy(ours), name), scene)
        assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    for name, value in exact.items():
        assert abs(found[way][name] - value) <= 2 * abs(found["level by level"][name] - value) + 5e-3 * value, name


@pytest.mark.parametrize("shared_affine", [False, True])
def test_weights_of_16_bits(shared_affine):
    """O2: convolutions in bfloat16, norms and their statistics in float32, level by level."""
    exact, _ = level_pair(shared_affine=shared_affine)
    half = cast_weights(keep_losses_fp32(copy.deepcopy(exact)), torch.bfloat16)
    assert towers.obstacle(half.cls_convs, half.reg_convs) == "a hook on a layer of a tower"
    scene = Scene("mixed")
    expected, _ = losses_and_gradients(exact, scene)
    scene.feats = [feat.bfloat16() for feat in scene.feats]
    found, gradients = losses_and_gradients(half, scene)
    assert all(torch.isclose(found[name], value, rtol=0.03) for name, value in expected.items())
    assert {norm.running_var.dtype for norm in norms_of(half)} == {torch.float32}
    assert gradients["cls_convs.0.conv.weight"].dtype == torch.bfloat16
    assert gradients["cls_convs.0.bn.0.weight"].dtype == torch.float32
    for name, value in exact.named_buffers():
        if "running" in name:
            assert torch.allclose(half.get_buffer(name), value, rtol=0.05, atol=0.02), name


OBSTACLES = {
    "a norm that is neither GroupNorm nor BatchNorm per level (SharedBN)": {"type": "SharedBN"},
    "BatchNorm with statistics of all ranks (SyncBN)": {"type": "SyncBN"},
    "BatchNorm without weight and bias": {"type": "BN", "affine": False},
}


@pytest.mark.parametrize("reason", OBSTACLES)
def test_other_norms_run_level_by_level(reason):
    ours, _ = fcos_pair(norm_cfg=OBSTACLES[reason])
    assert towers.obstacle(ours.cls_convs, ours.reg_convs) == reason


@pytest.mark.parametrize("kind", ["BN", "BN2d", "SyncBN", nn.BatchNorm2d])
def test_batch_norm_in_a_head_is_per_level(kind):
    for pair in PAIRS.values():
        ours, _ = pair(norm_cfg={"type": kind})
        layer = ours.cls_convs[0].norm
        assert isinstance(layer, LevelNorm) and len(layer) == 5
        assert type(layer[0]) is (nn.SyncBatchNorm if kind == "SyncBN" else nn.BatchNorm2d)


def test_shared_batch_norm_has_a_type_of_its_own():
    ours, theirs = fcos_pair(norm_cfg={"type": "SharedBN"}, stacked_convs=2)
    assert type(ours.cls_convs[0].norm) is SharedBN
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_parameters_may_be_shared_by_the_levels():
    layer = LevelBN(8, num_levels=5, shared_affine=True)
    names = {name for name, _ in layer.named_parameters()}
    assert names == {"0.weight", "0.bias"}
    assert sum(name.endswith("running_mean") for name, _ in layer.named_buffers()) == 5
