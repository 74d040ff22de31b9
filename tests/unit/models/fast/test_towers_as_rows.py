"""Small levels as rows: losses and gradients equal those of mmdet's heads."""

import copy

import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn

from fcos_train.geometry.level_rows import membership
from fcos_train.models.fast import towers
from fcos_train.models.fast.towers_as_rows import _RowsGroupNormReLU, convolve, run_as_rows
from tests.support.heads import (
    MERGED_FCOS,
    SCENES,
    Scene,
    assert_equal,
    fcos_pair,
    fsaf_pair,
    losses_and_gradients_of_padded,
)

SIZES = ((5, 7), (3, 4), (1, 2))


@pytest.fixture
def rows_from(monkeypatch):
    """A function that makes every head run the levels from the given one on as rows; None: no level."""
    return lambda first: monkeypatch.setattr(towers, "first_in_rows", lambda head, x: first)


@pytest.mark.parametrize("option", MERGED_FCOS)
@pytest.mark.parametrize("scene", SCENES)
def test_fcos_equal_to_mmdet(option, scene, rows_from):
    ours, theirs = fcos_pair(**MERGED_FCOS[option])
    assert towers.can_merge(ours.cls_convs, ours.reg_convs)
    rows_from(2)
    assert_equal(ours, theirs, Scene(scene), run=losses_and_gradients_of_padded)


@pytest.mark.parametrize("scene", SCENES)
def test_fsaf_equal_to_mmdet(scene, rows_from):
    ours, theirs = fsaf_pair()
    rows_from(2)
    assert_equal(ours, theirs, Scene(scene), run=losses_and_gradients_of_padded)


@pytest.mark.parametrize("first", [0, 1, 4])
@pytest.mark.parametrize("size", [(256, 192), (250, 130)])
def test_any_number_of_levels(first, size, rows_from):
    rows_from(first)
    for ours, theirs in (fcos_pair(), fsaf_pair()):
        assert_equal(ours, theirs, Scene("some", size=size), run=losses_and_gradients_of_padded)


def layers(norm):
    torch.manual_seed(0)
    found = [
        ConvModule(6, 8, 3, padding=1, norm_cfg=norm, bias=True),
        ConvModule(8, 8, 3, padding=1, norm_cfg=norm, bias=True),
    ]
    for layer in found:
        if norm:
            nn.init.normal_(layer.norm.weight)
            nn.init.normal_(layer.norm.bias)
    return nn.Sequential(*found)


@pytest.mark.parametrize("norm", [{"type": "GN", "num_groups": 2}, None], ids=["group norm", "no norm"])
def test_towers(norm):
    """Against the layers themselves on each map, including gradients of maps and parameters."""
    first, second = layers(norm), layers(norm)
    nn.init.normal_(second[0].conv.weight)
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randn(2, 6, *size, generator=generator, requires_grad=True) for size in SIZES]
    expected = [torch.cat([tower(x).flatten(2) for x in maps], dim=2) for tower in (first, second)]
    grads = [torch.randn(t.shape, generator=generator) for t in expected]
    inputs = [*maps, *first.parameters(), *second.parameters()]
    reference = torch.autograd.grad(expected, inputs, grads)
    rows, found = run_as_rows(maps, list(first), list(second))
    found = [tower.view(2, -1, 8).transpose(1, 2) for tower in found]
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    for one, other in zip(torch.autograd.grad(found, inputs, grads), reference, strict=True):
        assert torch.allclose(one, other, atol=2e-4 * other.abs().max().item())
    layer = nn.Conv2d(8, 3, 3, padding=1)
    predicted = rows.predict(layer, found[0].transpose(1, 2).reshape(-1, 8))
    sides = [h * w for h, w in SIZES]
    again = [
        layer(part.unflatten(2, size)).flatten(2) for part, size in zip(expected[0].split(sides, 2), SIZES, strict=True)
    ]
    assert torch.allclose(predicted, torch.cat(again, 2), atol=1e-5)


def test_group_norm_formulas(monkeypatch):
    """Finite differences, in float64."""
    generator = torch.Generator().manual_seed(0)
    rows, _ = run_as_rows([torch.randn(2, 6, *size) for size in ((2, 2), (1, 3))], *[list(layers(None))] * 2)
    x, weight, bias = (
        torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in ((2, 14, 4), (2, 1, 4), (2, 1, 4))
    )

    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)
    monkeypatch.setattr("fcos_train.models.fast.towers_as_rows.membership", lambda *place: membership(*place).double())
    assert torch.autograd.gradcheck(
        lambda *tensors: _RowsGroupNormReLU.apply(*tensors, rows, 2, 1e-5), (x, weight, bias)
    )


def bf16_scene(kind, seed):
    scene = Scene(kind, seed=seed)
    scene.feats = [feat.bfloat16().contiguous(memory_format=torch.channels_last) for feat in scene.feats]
    return scene


def distance(found, truth):
    total = sum((found[k].float() - g.float()).square().sum() for k, g in truth.items() if g is not None)
    return (total / sum(g.float().square().sum() for g in truth.values() if g is not None)).sqrt().item()


@pytest.mark.parametrize("pair", [fcos_pair, fsaf_pair])
def test_as_training_runs_it_in_bf16(pair, monkeypatch):
    """Used for small levels only, and no noisier than running level by level."""
    own, reference = 0.0, 0.0
    for seed in range(3):
        scene = bf16_scene("mixed", seed)
        ours, _ = pair()
        assert towers.first_in_rows(ours, scene.feats) == 1  # 16 x 24 is over 144 positions, 8 x 12 is not
        exact = copy.copy(scene)
        exact.feats = [feat.float() for feat in scene.feats]
        _, truth = losses_and_gradients_of_padded(copy.deepcopy(ours), exact)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, found = losses_and_gradients_of_padded(ours, scene)
            own += distance(found, truth) ** 2
            with monkeypatch.context() as patched:
                patched.setattr(towers, "first_in_rows", lambda head, x: None)
                _, found = losses_and_gradients_of_padded(ours, scene)
            reference += distance(found, truth) ** 2
    assert own**0.5 <= 1.3 * reference**0.5
    assert (reference / 3) ** 0.5 < 0.1


def test_when():
    head, _ = fcos_pair()
    x = bf16_scene("some", 0).feats
    assert towers.first_in_rows(head, x) == 1
    assert towers.first_in_rows(head, x[1:]) == 0
    assert towers.first_in_rows(head, x[:1]) is None  # too large
    assert towers.first_in_rows(head, [level.float() for level in x]) == 1
    assert towers.first_in_rows(head, [level.half() for level in x]) is None
    head.eval()
    assert towers.first_in_rows(head, x) is None
    head.train()
    handle = head.cls_convs[0].register_forward_hook(lambda *_: None)
    assert towers.first_in_rows(head, x) is None
    handle.remove()
    assert towers.first_in_rows(fcos_pair(norm_cfg={"type": "BN"})[0], x) == 1
    assert towers.first_in_rows(fcos_pair(norm_cfg={"type": "SharedBN"})[0], x) is None


def test_weights_of_16_bits():
    """O2: gradients have the dtype of their weights."""
    head, _ = fcos_pair()
    head = copy.deepcopy(head).bfloat16()
    maps = bf16_scene("some", 0).feats[2:]
    rows, features = run_as_rows(maps, head.cls_convs, head.reg_convs)
    convolve(rows, features[:1], [head.conv_cls]).sum().backward()
    assert {p.grad.dtype for p in head.cls_convs.parameters()} == {torch.bfloat16}
