"""FixedShapeFCOSHead against mmdet's FCOSHead: equal losses and gradients for every option and scene."""

import pytest
import torch
from mmdet.models.dense_heads import FCOSHead

from fcos_train.geometry.padded import PaddedObjects
from fcos_train.models import FixedShapeFCOSHead
from fcos_train.models.fast.towers import by_levels
from mmcv_overrides.errors import UserError
from tests.support.heads import FCOS_TRICKS, SCENES, Scene, assert_equal, fcos_pair, losses_and_gradients, padded

OPTIONS = {
    "plain": {},
    "no norm": {"norm_cfg": None},
    "shared batch norm": {"norm_cfg": {"type": "SharedBN", "requires_grad": True}},
    "centre sampling": {"center_sampling": True},
    "centre sampling 2.3": {"center_sampling": True, "center_sample_radius": 2.3},
    "normalised": {"norm_on_bbox": True},
    "centerness on reg": {"centerness_on_reg": True},
    "giou": {"loss_bbox": FCOS_TRICKS["loss_bbox"]},
    "all tricks": FCOS_TRICKS,
    "linear iou": {"loss_bbox": {"type": "IoULoss", "mode": "linear", "eps": 1e-3}},
    "square iou": {"loss_bbox": {"type": "IoULoss", "mode": "square", "loss_weight": 0.5}},
    "other box loss": {"loss_bbox": {"type": "DIoULoss", "loss_weight": 1.5}},
    "weights": {
        "loss_cls": {
            "type": "FocalLoss",
            "use_sigmoid": True,
            "gamma": 1.5,
            "alpha": 0.4,
            "loss_weight": 0.7,
        },
        "loss_centerness": {"type": "CrossEntropyLoss", "use_sigmoid": True, "loss_weight": 3.0},
    },
    "narrow ranges": {"regress_ranges": ((16, 32), (32, 64), (64, 96), (96, 128), (128, 512))},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("scene", SCENES)
def test_equal_to_mmdet(option, scene):
    # With norm_on_bbox mmdet adds distances in strides to corners in pixels, and -log(IoU) of the differences
    # carries its float32 rounding (up to 6e-4 of a gradient): there its float64 run is the reference.
    ours, theirs = fcos_pair(**OPTIONS[option])
    assert_equal(ours, theirs, Scene(scene), exact=option == "normalised")


@pytest.mark.parametrize("option", OPTIONS)
def test_equal_to_mmdet_in_float64(option):
    ours, theirs = fcos_pair(**OPTIONS[option])
    assert_equal(ours, theirs, Scene("mixed"), exact=True, loss_tolerance=1e-6, gradient_tolerance=3e-5)


@pytest.mark.parametrize("classes,size,seed", [(1, (128, 128), 3), (80, (256, 192), 4), (3, (250, 130), 5)])
def test_equal_for_other_sizes(classes, size, seed):
    ours, theirs = fcos_pair(classes=classes, **OPTIONS["all tricks"])
    expected = assert_equal(ours, theirs, Scene("mixed", classes=classes, size=size, seed=seed))
    assert all(value > 0 for value in expected.values())


def test_objects_outside_every_range_leave_only_the_class_loss():
    ours, theirs = fcos_pair(**OPTIONS["narrow ranges"])
    expected = assert_equal(ours, theirs, Scene("outside"))
    assert expected["loss_bbox"] == 0 and expected["loss_centerness"] == 0 and expected["loss_cls"] > 0


def test_state_dict_and_predictions_are_mmdets():
    ours, theirs = fcos_pair()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert FixedShapeFCOSHead.predict_by_feat is FCOSHead.predict_by_feat
    ours.eval(), theirs.eval()
    feats = Scene("one").feats
    for mine, reference in zip(ours(feats), theirs(feats), strict=True):
        for a, b in zip(mine, reference, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_channels_last_maps_give_the_same():
    ours, _ = fcos_pair()
    scene = Scene("some")
    expected, _ = losses_and_gradients(ours, scene)
    maps = ours(scene.feats)
    maps = [[level.to(memory_format=torch.channels_last) for level in kind] for kind in maps]
    losses = ours.loss_by_feat(*maps, scene.instances, scene.metas)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-6, atol=1e-7)


def test_padding_has_no_effect():
    ours, _ = fcos_pair()
    scene = Scene("some")
    maps = ours(scene.feats)
    results = []
    for size in (8, 64):
        objects = padded(scene)
        filler = torch.tensor([0.0, 0.0, 100.0, 100.0, 0.0]).expand(len(objects), size, 5)
        table = torch.cat((objects.table, filler), 1)[:, : 1 + size]
        behind = torch.arange(size) >= objects.count[:, None]
        table[:, 1:] = torch.where(behind[..., None], filler, table[:, 1:])
        results.append(ours.loss_of_objects(*by_levels(ours, maps), PaddedObjects(table, size)))
    for name in results[0]:
        assert results[0][name] == results[1][name]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_are_computed_in_float32(dtype):
    ours, _ = fcos_pair()
    scene = Scene("mixed")
    with torch.no_grad():
        half = [[level.to(dtype) for level in kind] for kind in ours(scene.feats)]
        exact = [[level.float() for level in kind] for kind in half]
        rounded = ours.loss_by_feat(*half, scene.instances, scene.metas)
        reference = ours.loss_by_feat(*exact, scene.instances, scene.metas)
    for name, value in reference.items():
        assert rounded[name].dtype == torch.float32
        torch.testing.assert_close(rounded[name], value, rtol=1e-6, atol=1e-7)


def test_an_overflow_at_a_background_point_stays_there():
    ours, _ = fcos_pair()
    scene = Scene("one")
    scores, sides, centers = ours(scene.feats)
    sides[0] = sides[0].clone()
    sides[0][0, :, -1, -1] = float("inf")  # the last point of the finest level is in no box
    sides[0].requires_grad_() if not sides[0].requires_grad else None
    losses = ours.loss_by_feat(scores, sides, centers, scene.instances, scene.metas)
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(torch.isfinite(parameter.grad).all() for name, parameter in ours.named_parameters() if "cls" in name)


def test_mean_over_two_ranks(monkeypatch):
    """The other rank has 50 positives of mass 20: both heads divide by the same means."""
    import torch.distributed as dist

    ours, theirs = fcos_pair()
    scene = Scene("some")
    alone, _ = losses_and_gradients(ours, scene)

    def all_reduce(values, op=None):
        other = torch.tensor([50.0, 20.0]) / 2
        values += other if values.numel() == 2 else other[len(calls) % 2]
        calls.append(values.numel())

    calls = []
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda group=None: 2)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    expected, _ = losses_and_gradients(theirs, scene)
    assert calls == [1, 1]
    calls.clear()
    values, _ = losses_and_gradients(ours, scene)
    assert calls == [2]
    for name, value in expected.items():
        torch.testing.assert_close(values[name], value, rtol=1e-5, atol=1e-7)
        assert values[name] != alone[name]


@pytest.mark.parametrize(
    "option,word",
    [
        ({"loss_cls": {"type": "QualityFocalLoss", "use_sigmoid": True}}, "FocalLoss"),
        (
            {"loss_centerness": {"type": "CrossEntropyLoss", "use_sigmoid": True, "class_weight": [2.0]}},
            "class_weight",
        ),
        ({"strides": [(8, 16), 16, 32, 64, 128]}, "equal in x and y"),
    ],
)
def test_options_without_a_fixed_shape_are_refused(option, word):
    with pytest.raises(UserError, match=word):
        fcos_pair(**option)
