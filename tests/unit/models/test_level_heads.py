"""BatchNorm in a head is per level by default, in every step mode; shared statistics cause a warning."""

import copy
import logging

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.model import ExponentialMovingAverage, revert_sync_batchnorm
from mmengine.registry import DefaultScope

from fcos_train.models import describe_norms, use_level_norms
from fcos_train.models.fast.towers import can_merge
from fcos_train.models.level_norm import LevelNorm
from mmcv_overrides import checkpoint
from mmcv_overrides.errors import UserError
from tests.support.heads import Scene, losses_and_gradients_of_padded
from tests.support.level_norms import PAIRS, level_pair, norms_of, scattered
from tests.support.small_detectors import small_config
from tests.support.steps import sgd


def model_of(name="fcos-bn", fixed_shape=False, **head):
    """A small detector of a configuration, as evaluation builds it."""
    model = small_config(name, fixed_shape).model
    model.bbox_head.update(head)
    use_level_norms(model)
    return build(model)


def build(config):
    with DefaultScope.overwrite_default_scope("mmdet"):
        return MODELS.build(copy.deepcopy(config))


BN = {"type": "BN", "requires_grad": True}
SHARED = {"type": "SharedBN", "requires_grad": True}


@pytest.mark.parametrize(
    ("name", "head", "kind", "affine"),
    [
        ("fcos-bn", {"norm_cfg": BN}, "LevelFCOSHead", "per level"),
        ("fcos-bn", {"norm_cfg": {"type": "LevelBN", "shared_affine": True}}, "LevelFCOSHead", "for all levels"),
        ("fsaf", {"norm_cfg": BN}, "LevelFSAFHead", "per level"),
        ("retinanet", {"norm_cfg": {"type": "SyncBN"}}, "LevelRetinaHead", "per level"),
    ],
)
def test_mmdets_head_with_batch_norm_is_per_level(name, head, kind, affine):
    model = model_of(name, **head)
    assert type(model.bbox_head).__name__ == kind
    layer = model.bbox_head.cls_convs[0].norm
    assert isinstance(layer, LevelNorm) and len(layer) == 5
    (line,), warnings = describe_norms(model)
    assert line.startswith("bbox_head: BatchNorm per level (Level") and affine in line and not warnings


@pytest.mark.parametrize("norm", [None, {"type": "GN", "num_groups": 4}, SHARED, {"type": "IN"}])
def test_other_norms_leave_the_head(norm):
    model = ConfigDict(bbox_head={"type": "FCOSHead", "norm_cfg": norm})
    assert use_level_norms(model) == [] and model.bbox_head.type == "FCOSHead"


def test_the_same_checkpoint_in_both_step_modes():
    stock, fixed_shape = model_of(norm_cfg=BN), model_of(fixed_shape=True, norm_cfg=BN)
    assert list(stock.state_dict()) == list(fixed_shape.state_dict())
    assert "bbox_head.cls_convs.0.bn.4.running_var" in stock.state_dict()


@pytest.mark.parametrize(
    ("name", "fixed_shape", "head", "words"),
    [
        ("fcos-bn", False, {"norm_cfg": SHARED}, ("bbox_head.norm_cfg", "FCOSHead", "type='BN'")),
        ("fcos-bn", True, {"norm_cfg": SHARED}, ("bbox_head.norm_cfg", "FixedShapeFCOSHead", "type='BN'")),
        ("retinanet", False, {"norm_cfg": SHARED}, ("bbox_head.norm_cfg", "RetinaHead", "type='BN'")),
        ("retinanet", False, {"type": "FreeAnchorRetinaHead", "norm_cfg": BN, "loss_bbox": {"type": "SmoothL1Loss"}},
         ("bbox_head.norm_cfg", "FreeAnchorRetinaHead", "type='BN'")),
    ],
)  # fmt: skip
def test_shared_statistics_are_a_warning_that_names_the_key(name, fixed_shape, head, words):
    lines, (warning,) = describe_norms(model_of(name, fixed_shape, **head))
    assert lines == [] and all(word in warning for word in words)
    assert "running statistics mix the distributions of all levels" in warning


def test_norms_that_are_not_shared_are_no_warning():
    """BatchNorm of the backbone, and heads with GroupNorm or with separate towers per level."""
    assert describe_norms(model_of("fcos-gn")) == ([], [])
    assert describe_norms(model_of("retinanet")) == ([], [])
    own = {"type": "RetinaSepBNHead", "num_ins": 5, "norm_cfg": BN}
    assert describe_norms(model_of("retinanet", **own)) == ([], [])


def test_a_number_of_levels_that_is_not_the_heads_is_refused():
    with pytest.raises(UserError, match=r"norm_cfg.num_levels=3, but the head has 5 levels"):
        model_of(norm_cfg={"type": "LevelBN", "num_levels": 3})


def test_options_of_another_norm_are_refused():
    """Such options remain from a base config with GroupNorm."""
    for kind in ("BN", "SharedBN"):
        with pytest.raises(UserError, match=r"bbox_head.norm_cfg: .*'num_groups'; .*_delete_=True"):
            model_of(fixed_shape=True, norm_cfg={"type": kind, "num_groups": 4})


class Lines(logging.Logger):
    def __init__(self):
        super().__init__("lines")
        self.texts = []

    def handle(self, record):
        self.texts.append(record.getMessage())


def test_a_checkpoint_with_one_norm_for_all_levels(monkeypatch):
    """Its values are copied to every level, predictions are unchanged, and a warning is logged."""
    old = build(small_config("fcos-bn").model)  # mmdet's own head
    scattered(old.bbox_head)
    new, lines = model_of(fixed_shape=True), Lines()
    monkeypatch.setattr("fcos_train.models.level_norm.print_log", lambda text, **_: lines.texts.append(text))
    report = checkpoint.load_weights(new, {"state_dict": old.state_dict()}, lines)
    assert report.complete and report.matched and not report.missing
    values, names = new.state_dict(), ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    for tower in ("cls_convs", "reg_convs"):
        for name in names:
            one = old.state_dict()[f"bbox_head.{tower}.0.bn.{name}"]
            assert all(torch.equal(values[f"bbox_head.{tower}.0.bn.{level}.{name}"], one) for level in range(5))
    (warning,) = [text for text in lines.texts if "copied" in text]
    assert (
        "2 BatchNorm layers of the head (bbox_head.cls_convs.0.bn first)" in warning
        and "copied to each level" in warning
    )
    maps = [torch.randn(2, 16, 8 >> i or 1, 12 >> i or 1) for i in range(5)]
    with torch.no_grad():
        pairs = zip(new.eval().bbox_head(maps), old.eval().bbox_head(maps), strict=True)
        assert all(torch.equal(a, b) for found, expected in pairs for a, b in zip(found, expected, strict=True))


def test_resuming_a_training_with_shared_norms_is_refused_in_words():
    """Its optimizer has other parameters."""
    one, other = model_of(norm_cfg=SHARED), model_of()
    state = sgd(one).state_dict()
    with pytest.raises(UserError, match=r"cannot resume the optimizer: .*load_from"):
        sgd(other).load_state_dict(state)


def test_a_checkpoint_per_level_loads_without_a_warning(monkeypatch):
    texts = []
    monkeypatch.setattr("fcos_train.models.level_norm.print_log", lambda text, **_: texts.append(text))
    one, other = model_of(fixed_shape=True), model_of()
    scattered(one.bbox_head)
    assert checkpoint.load_weights(other, one.state_dict(), Lines()).complete and not texts
    assert all(torch.equal(other.state_dict()[name], value) for name, value in one.state_dict().items())


@pytest.mark.parametrize("kind", PAIRS)
def test_copies_of_a_head_have_norms_of_their_own(kind):
    """An EMA is a deep copy: it must neither write to nor read the statistics of the model."""
    ours, _ = level_pair(kind)
    ema = ExponentialMovingAverage(ours, momentum=0.5, update_buffers=True)
    scene, before = Scene("some"), {name: value.clone() for name, value in ours.named_buffers() if "running" in name}
    losses_and_gradients_of_padded(ema.module, scene)
    assert all(torch.equal(ours.get_buffer(name), value) for name, value in before.items())
    losses_and_gradients_of_padded(ours, scene)
    ema.update_parameters(ours)  # the first call copies
    for name, value in ema.module.named_buffers():
        assert torch.equal(value, ours.get_buffer(name)), name
    assert len(ema.module.by_level) == 4 and not set(ema.module.by_level) & set(ours.by_level)


def test_synchronised_norms_of_one_process():
    """mmengine converts SyncBN for a single process; the converted layers are still per level."""
    model = revert_sync_batchnorm(model_of(fixed_shape=True, norm_cfg={"type": "SyncBN"}))
    head, scene = model.bbox_head, Scene("some", classes=4)
    assert isinstance(head.cls_convs[0].norm, LevelNorm) and can_merge(head.cls_convs, head.reg_convs)
    losses_and_gradients_of_padded(head, scene)
    assert [int(norm.num_batches_tracked) for norm in norms_of(head)] == [1] * 10
