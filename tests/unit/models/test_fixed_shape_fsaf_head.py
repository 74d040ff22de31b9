"""FixedShapeFSAFHead against mmdet's FSAFHead: regions, online selection of levels, losses, gradients, log values."""

import pytest
import torch
from mmdet.models.dense_heads import FSAFHead
from mmengine.structures import InstanceData

from fcos_train.models import FixedShapeFSAFHead
from mmcv_overrides.errors import UserError
from tests.support.heads import (
    GN,
    REGIONS,
    SCENES,
    WIDE_REGIONS,
    Scene,
    assert_equal,
    fsaf_pair,
    livelier,
    losses_and_gradients,
)

OPTIONS = {
    "plain": {},
    "group norm": {"norm_cfg": GN},
    "wide regions": {"assigner": WIDE_REGIONS},
    "foreground dominates": {"assigner": {**WIDE_REGIONS, "foreground_dominate": True}},
    "giou": {"loss_bbox": {"type": "GIoULoss", "reduction": "none", "loss_weight": 1.5}},
    "other box loss": {"loss_bbox": {"type": "DIoULoss", "reduction": "none", "loss_weight": 1.5}},
    "weights": {
        "pos_weight": 2.5,
        "loss_cls": {
            "type": "FocalLoss",
            "use_sigmoid": True,
            "gamma": 1.5,
            "alpha": 0.4,
            "loss_weight": 0.7,
            "reduction": "none",
        },
    },
    "normalizer per side": {
        "bbox_coder": {"type": "TBLRBBoxCoder", "normalizer": [4.0, 2.0, 3.0, 5.0]},
        "score_threshold": 0.4,
    },
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("scene", SCENES)
def test_equal_to_mmdet(option, scene):
    ours, theirs = fsaf_pair(**OPTIONS[option])
    assert_equal(ours, theirs, Scene(scene))


@pytest.mark.parametrize("classes,size,seed", [(1, (128, 128), 3), (80, (256, 192), 4), (3, (250, 130), 5)])
def test_equal_for_other_sizes(classes, size, seed):
    ours, theirs = fsaf_pair(classes=classes, assigner=WIDE_REGIONS)
    expected = assert_equal(ours, theirs, Scene("mixed", classes=classes, size=size, seed=seed))
    assert expected["loss_cls"] > 0 and expected["loss_bbox"] > 0 and expected["num_pos"] > 1


@pytest.mark.parametrize("assigner", [REGIONS, WIDE_REGIONS])
def test_ignored_regions(assigner):
    ours, theirs = fsaf_pair(assigner=assigner)
    scene = Scene("mixed")
    plain, _ = losses_and_gradients(ours, scene)
    regions = [[[10.0, 10, 120, 100]], [[0.0, 0, 128, 128], [100.0, 50, 180, 120]], [], [[40.0, 40, 41, 41]]]
    scene.ignored = [InstanceData(bboxes=torch.tensor(boxes).reshape(-1, 4)) for boxes in regions]
    expected = assert_equal(ours, theirs, scene)
    assert expected["loss_cls"] != plain["loss_cls"]
    scene.ignored[2] = None
    assert_equal(ours, theirs, scene)


def test_points_beyond_the_padding_of_an_image_do_not_count():
    ours, theirs = fsaf_pair()
    scene = Scene("mixed")
    plain, _ = losses_and_gradients(ours, scene)
    for meta, shape in zip(scene.metas, [(128, 192), (96, 160), (64, 192), (100, 70)], strict=True):
        meta["pad_shape"] = shape
    expected = assert_equal(ours, theirs, scene)
    assert expected["loss_cls"] != plain["loss_cls"]


def test_the_selection_of_levels_depends_on_the_loss():
    """With other weights the number of positives changes, and still equals that of mmdet."""
    counts = set()
    for seed in range(3):
        ours, theirs = fsaf_pair(assigner=WIDE_REGIONS)
        livelier(theirs, seed=seed)
        ours.load_state_dict(theirs.state_dict())
        counts.add(assert_equal(ours, theirs, Scene("some"))["num_pos"].item())
    assert len(counts) == 3


def test_state_dict_and_predictions_are_mmdets():
    ours, theirs = fsaf_pair()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert FixedShapeFSAFHead.predict_by_feat is FSAFHead.predict_by_feat
    scene = Scene("some")
    for found, expected in zip(ours(scene.feats), theirs(scene.feats), strict=True):
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    "option,word",
    [
        ({"reg_decoded_bbox": False}, "reg_decoded_bbox"),
        (
            {"assigner": {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4}},
            "CenterRegionAssigner",
        ),
        (
            {
                "anchor_generator": {
                    "type": "AnchorGenerator",
                    "scales": [2],
                    "ratios": [1.0],
                    "strides": [8, 16, 32, 64, 128],
                }
            },
            "one square anchor",
        ),
    ],
)
def test_options_without_a_fixed_shape_are_refused(option, word):
    with pytest.raises(UserError, match=word):
        fsaf_pair(**option)
