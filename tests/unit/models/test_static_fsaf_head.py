"""StaticFSAFHead against mmdet's FSAFHead: regions, online choice of levels, losses, gradients, log values."""

import pytest
import torch
from mmdet.models.dense_heads import FSAFHead
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from fcos_train.models import StaticFSAFHead
from mmcv_overrides.errors import UserError

ASSIGNER = {"type": "CenterRegionAssigner", "pos_scale": 0.2, "neg_scale": 0.2, "min_pos_iof": 0.01}
WIDE = {**ASSIGNER, "pos_scale": 0.5, "neg_scale": 0.8}  # overlapping regions on every level
OPTIONS = {
    "plain": {},
    "group norm": {"norm_cfg": {"type": "GN", "num_groups": 4, "requires_grad": True}},
    "wide regions": {"assigner": WIDE},
    "foreground dominates": {"assigner": {**WIDE, "foreground_dominate": True}},
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


def _heads(kit, classes=3, assigner=ASSIGNER, pos_weight=-1, **options):
    arguments = {
        "num_classes": classes,
        "in_channels": 16,
        "feat_channels": 16,
        "stacked_convs": 1,
        "reg_decoded_bbox": True,
        "anchor_generator": {
            "type": "AnchorGenerator",
            "octave_base_scale": 1,
            "scales_per_octave": 1,
            "ratios": [1.0],
            "strides": list(kit.strides),
        },
        "bbox_coder": {"type": "TBLRBBoxCoder", "normalizer": 4.0},
        "loss_cls": {
            "type": "FocalLoss",
            "use_sigmoid": True,
            "gamma": 2.0,
            "alpha": 0.25,
            "loss_weight": 1.0,
            "reduction": "none",
        },
        "loss_bbox": {"type": "IoULoss", "eps": 1e-6, "loss_weight": 1.0, "reduction": "none"},
        "train_cfg": ConfigDict(assigner=assigner, allowed_border=-1, pos_weight=pos_weight, debug=False),
        **options,
    }
    theirs = kit.livelier(FSAFHead(**arguments))
    ours = StaticFSAFHead(**arguments)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


SCENES = ["none", "one", "some", "many", "tiny", "ties", "outside", "mixed"]


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("scene", SCENES)
def test_equal_to_mmdet(kit, option, scene):
    ours, theirs = _heads(kit, **OPTIONS[option])
    kit.assert_equal(ours, theirs, kit.Scene(scene))


@pytest.mark.parametrize("classes,size,seed", [(1, (128, 128), 3), (80, (256, 192), 4), (3, (250, 130), 5)])
def test_equal_for_other_sizes(kit, classes, size, seed):
    ours, theirs = _heads(kit, classes=classes, assigner=WIDE)
    expected = kit.assert_equal(ours, theirs, kit.Scene("mixed", classes=classes, size=size, seed=seed))
    assert expected["loss_cls"] > 0 and expected["loss_bbox"] > 0 and expected["num_pos"] > 1


@pytest.mark.parametrize("assigner", [ASSIGNER, WIDE])
def test_ignored_regions(kit, assigner):
    ours, theirs = _heads(kit, assigner=assigner)
    scene = kit.Scene("mixed")
    plain, _ = kit.losses_and_gradients(ours, scene)
    regions = [[[10.0, 10, 120, 100]], [[0.0, 0, 128, 128], [100.0, 50, 180, 120]], [], [[40.0, 40, 41, 41]]]
    scene.ignored = [InstanceData(bboxes=torch.tensor(boxes).reshape(-1, 4)) for boxes in regions]
    expected = kit.assert_equal(ours, theirs, scene)
    assert expected["loss_cls"] != plain["loss_cls"]
    scene.ignored[2] = None
    kit.assert_equal(ours, theirs, scene)


def test_points_beyond_the_padding_of_an_image_do_not_count(kit):
    ours, theirs = _heads(kit)
    scene = kit.Scene("mixed")
    plain, _ = kit.losses_and_gradients(ours, scene)
    for meta, shape in zip(scene.metas, [(128, 192), (96, 160), (64, 192), (100, 70)], strict=True):
        meta["pad_shape"] = shape
    expected = kit.assert_equal(ours, theirs, scene)
    assert expected["loss_cls"] != plain["loss_cls"]


def test_the_choice_of_levels_follows_the_loss(kit):
    """The same objects, but other weights: another number of positives, still mmdet's."""
    counts = set()
    for seed in range(3):
        ours, theirs = _heads(kit, assigner=WIDE)
        kit.livelier(theirs, seed=seed)
        ours.load_state_dict(theirs.state_dict())
        counts.add(kit.assert_equal(ours, theirs, kit.Scene("some"))["num_pos"].item())
    assert len(counts) == 3


def test_state_dict_and_predictions_are_mmdets(kit):
    ours, theirs = _heads(kit)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert StaticFSAFHead.predict_by_feat is FSAFHead.predict_by_feat
    assert StaticFSAFHead.forward_single is FSAFHead.forward_single


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
def test_options_without_a_fixed_shape_are_refused(kit, option, word):
    with pytest.raises(UserError, match=word):
        _heads(kit, **option)
