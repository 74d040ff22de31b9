"""The number of classes reaches every layer with one output per class, and no other."""

import pytest
from mmengine.config import ConfigDict

from fcos_train.config.class_count import set_class_count
from fcos_train.config.load import load_config
from mmcv_overrides.errors import UserError


def test_a_region_proposal_network_keeps_its_one_class():
    model = load_config("mmdet::faster_rcnn/faster-rcnn_r50_fpn_fcos-rpn_1x_coco").model
    assert set_class_count(model, 3) == ["num_classes 80 -> 3: the classes of the data set"]
    assert (model.rpn_head.num_classes, model.roi_head.bbox_head.num_classes) == (1, 3)


def test_every_stage_and_the_mask_head():
    model = load_config("mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco").model
    set_class_count(model, 5)
    assert [head.num_classes for head in model.roi_head.bbox_head] == [5, 5, 5]
    assert model.roi_head.mask_head.num_classes == 5


def test_weights_of_the_classes_follow():
    """Mask2Former: one weight for each of 80 things, and 0.1 for nothing."""
    model = load_config("mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco").model
    set_class_count(model, 2)
    assert model.panoptic_head.num_things_classes == model.panoptic_fusion_head.num_things_classes == 2
    assert model.panoptic_head.loss_cls.class_weight == [1.0, 1.0, 0.1]


def test_own_weights_are_not_guessed():
    loss = {"type": "CrossEntropyLoss", "class_weight": [1.0, 2.0]}
    model = ConfigDict(bbox_head={"num_classes": 2, "loss_cls": loss})
    with pytest.raises(UserError, match="loss_cls.class_weight has 2 weights for 2 classes, but the data set has 3"):
        set_class_count(model, 3)
    assert set_class_count(ConfigDict(bbox_head={"num_classes": 3, "loss_cls": loss}), 3) == []


def test_crowddet_knows_one_class():
    model = load_config("mmdet::crowddet/crowddet-rcnn_r50_fpn_8xb2-30e_crowdhuman").model
    assert set_class_count(model, 1) == []
    with pytest.raises(
        UserError, match=r"one class from the background, and the data set has 3 classes: .*--classes NAME"
    ):
        set_class_count(model, 3)
