"""The head with the square-root score trains with fixed shapes: losses of mmdet's FCOSHead, points at any offset."""

import copy

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope

from fcos_train.models import SqrtScoreFCOSHead, fixed_shape_head_of
from fcos_train.models.fast.towers import obstacle
from fcos_train.models.fixed_shape_heads import FIXED_SHAPE
from tests.support.heads import FCOS_TRICKS, Scene, losses_and_gradients, losses_and_gradients_of_padded

HEAD = {**FCOS_TRICKS, "type": "SqrtScoreFCOSHead", "num_classes": 3, "in_channels": 16, "feat_channels": 16}
HEAD |= {"stacked_convs": 2, "norm_cfg": {"type": "BN"}, "strides": [8, 16, 32, 64, 128]}
RANGES = ((-1, 32), (32, 64), (64, 96), (96, 128), (128, 1e8))
SEPARABLE = {"conv_cfg": {"type": "SeparableConv2d"}}


def pair(**options):
    """A fixed-shape head and the one that it stands for, with equal weights."""
    torch.manual_seed(0)
    config = ConfigDict({**HEAD, "regress_ranges": RANGES, **options})
    with DefaultScope.overwrite_default_scope("mmdet"):
        theirs = MODELS.build(config)
        ours = MODELS.build(ConfigDict(config, type=FIXED_SHAPE["SqrtScoreFCOSHead"]))
    theirs.init_weights()
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    return ours, theirs


@pytest.mark.parametrize("options", [{}, {"point_offset": 0.0, "threshold_on": "score"}, SEPARABLE], ids=str)
def test_losses_and_gradients_are_those_of_mmdet(options):
    ours, theirs = pair(**options)
    scene = Scene("mixed")
    assert ours.level_spec.offset == theirs.prior_generator.offset == options.get("point_offset", 0.5)
    values, gradients = losses_and_gradients_of_padded(ours, scene)
    expected, their_gradients = losses_and_gradients(theirs, scene)
    for name, value in expected.items():
        torch.testing.assert_close(values[name], value, rtol=2e-4, atol=1e-6)
    for name, value in their_gradients.items():
        limit = 2e-3 * max(float(value.abs().max()), 1e-3)
        torch.testing.assert_close(gradients[name], value, rtol=0, atol=limit, msg=lambda text, n=name: f"{n}: {text}")


def test_separable_towers_run_level_by_level():
    """The merged ways are for plain 3x3 convolutions."""
    ours, _ = pair(**SEPARABLE)
    assert obstacle(ours.cls_convs, ours.reg_convs) == "a layer SeparableConv2d in a tower"


def test_it_is_found_and_predicts_like_its_stock_form():
    assert fixed_shape_head_of({"bbox_head": dict(HEAD)}) == ("FixedShapeSqrtScoreFCOSHead", "SqrtScoreFCOS head")
    ours, theirs = pair()
    assert isinstance(theirs, SqrtScoreFCOSHead)
    config = ConfigDict(
        nms_pre=50, score_thr=0.0, min_bbox_size=0, max_per_img=20, nms={"type": "nms", "iou_threshold": 0.6}
    )
    scene = Scene("some")
    for head in (ours.eval(), theirs.eval()):
        metas = [{**meta, "ori_shape": meta["img_shape"], "scale_factor": (1.0, 1.0)} for meta in scene.metas]
        head.found = head.predict_by_feat(*head(scene.feats), batch_img_metas=metas, cfg=config)
    for one, other in zip(ours.found, theirs.found, strict=True):
        assert len(one) == 20 and torch.equal(one.bboxes, other.bboxes) and torch.equal(one.scores, other.scores)
