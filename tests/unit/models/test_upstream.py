"""Faults of mmdet that are mended: what failed works, and nothing is overwritten."""

import numpy as np
import pytest
import torch
from mmdet.evaluation.metrics import coco_metric
from mmdet.models import SSDHead
from mmdet.models.roi_heads.mask_heads import fcn_mask_head
from mmdet.registry import TASK_UTILS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from fcos_train.models import upstream


def test_ssd_predicts_and_does_not_learn_less():
    """``predict_by_feat`` of the base class reads ``loss_cls``, which SSDHead does not have."""
    head = SSDHead(
        num_classes=3,
        in_channels=(8,),
        anchor_generator={
            "type": "SSDAnchorGenerator",
            "basesize_ratio_range": (0.15, 0.9),
            "strides": [32],
            "ratios": [[2]],
            "min_sizes": [48],
            "max_sizes": [80],
            "input_size": 96,
        },
        test_cfg=ConfigDict(nms_pre=100, nms={"type": "nms", "iou_threshold": 0.45}, score_thr=0.02, max_per_img=5),
    )
    torch.manual_seed(0)
    with torch.no_grad():
        maps = head((torch.randn(1, 8, 3, 3),))
        meta = {"img_shape": (96, 96), "ori_shape": (96, 96), "scale_factor": (1.0, 1.0)}
        (found,) = head.predict_by_feat(*maps, batch_img_metas=[meta])
    assert isinstance(found, InstanceData) and found.bboxes.shape == (5, 4)
    assert head.loss_cls is None and "loss_cls" not in dict(head.named_children())


def test_recall_of_proposals_for_images_with_different_numbers_of_boxes():
    """Of three boxes two have a proposal of IoU 1 (limit 2); with one proposal per image, one."""
    boxes = [np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32), np.zeros((0, 4)), np.array([[5.0, 5, 9, 9]])]
    first = np.array([[20, 20, 30, 30, 0.5], [50, 50, 60, 60, 0.7], [0, 0, 10, 10, 0.9]], np.float32)
    proposals = [first, np.zeros((0, 5)), np.array([[40, 40, 50, 50, 0.9], [5, 5, 9, 9, 0.8]], np.float32)]
    found = coco_metric.eval_recalls(boxes, proposals, (1, 2), (0.5,), logger="silent")
    assert found.shape == (2, 1) and found[:, 0].tolist() == pytest.approx([1 / 3, 2 / 3])


def test_what_is_there_is_not_replaced(monkeypatch):
    class Mended:
        loss_cls = "of mmdet"

    class Lacking:
        pass

    rows = tuple((owner, "loss_cls", None, "why") for owner in (Mended, Lacking))
    monkeypatch.setattr(upstream, "ABSENT", rows)
    assert upstream.add_absent() == ["Lacking.loss_cls: why"]
    assert (Mended.loss_cls, Lacking.loss_cls) == ("of mmdet", None)


BOX, CROWD = [10.0, 10.0, 50.0, 50.0], [60.0, 60.0, 90.0, 90.0]


def sample(boxes: list[list[float]], ignored: list[list[float]]) -> DetDataSample:
    """As the data preprocessor gives it: tensors, and labels of the class for ignored boxes too."""
    found = DetDataSample()
    for name, rows in (("gt_instances", boxes), ("ignored_instances", ignored)):
        tensor = torch.tensor(rows).reshape(-1, 4)
        setattr(found, name, InstanceData(bboxes=tensor, labels=torch.zeros(len(rows), dtype=torch.long)))
    return found


@pytest.mark.parametrize(
    ("boxes", "ignored", "filled"),
    [([BOX], [], [[0.0] * 4]), ([BOX], [CROWD], [CROWD]), ([BOX, CROWD], [], []), ([], [], [[0.0] * 4] * 2)],
)
def test_crowddet_has_two_boxes_in_every_image(boxes, ignored, filled):
    """The assigner fails on fewer; what fills up is ignored and overlaps nothing."""
    data = sample(boxes, ignored)
    upstream.fill_up(data, 2)
    assert data.gt_instances.bboxes.tolist() == boxes
    assert data.ignored_instances.bboxes.tolist() == filled
    assert data.ignored_instances.labels.tolist() == [-1] * len(filled)
    assigner = TASK_UTILS.build(
        {"type": "MultiInstanceAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.5, "min_pos_iou": 0.3}
    )
    priors = InstanceData(priors=torch.tensor([BOX, [100.0, 100.0, 120.0, 120.0]]))
    result = assigner.assign(priors, data.gt_instances, data.ignored_instances)
    expected = [[1, 0], [0, 0]] if boxes else [[0, 0], [0, 0]]
    assert result.labels[:2].tolist() == expected


@pytest.mark.parametrize("box", [[-50, 5, -20, 15], [5, 40, 15, 60], [70, 70, 90, 95]])
def test_a_mask_outside_of_the_image_is_empty(box):
    """QueryInst's boxes are not clipped; pasting one that lies outside ended in a RuntimeError of arange."""
    pasted, (rows, columns) = fcn_mask_head._do_paste_mask(
        torch.ones(1, 1, 28, 28), torch.tensor([box]).float(), 32, 48
    )
    image = torch.zeros(1, 32, 48)
    image[:, rows, columns] = pasted
    assert image.sum() == 0


def test_a_mask_inside_is_pasted_as_before():
    pasted, (rows, columns) = fcn_mask_head._do_paste_mask(
        torch.ones(1, 1, 28, 28), torch.tensor([[4.0, 6.0, 20.0, 16.0]]), 32, 48
    )
    image = torch.zeros(1, 32, 48)
    image[:, rows, columns] = pasted
    assert int((image > 0.5).sum()) == 16 * 10
