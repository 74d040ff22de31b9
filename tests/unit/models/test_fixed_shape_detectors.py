"""Whole mmdet detectors with fixed-shape heads: training losses and detections equal those with mmdet's heads."""

import copy
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

import fcos_train.models  # noqa: F401  (registers the heads)

SHIPPED = {"FCOS": "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py", "FSAF": "fsaf/fsaf_r50_fpn_1x_coco.py"}


def _detectors(name):
    """A model shipped with mmdet, scaled down, and the same model with our head and equal weights."""
    config = Config.fromfile(_shipped(SHIPPED[name])).model
    config.backbone.update(depth=18, base_channels=8, init_cfg=None, norm_cfg={"type": "BN"}, style="pytorch")
    config.neck.update(in_channels=[8, 16, 32, 64], out_channels=32)
    config.bbox_head.update(in_channels=32, feat_channels=32, stacked_convs=1, num_classes=4)
    ours = copy.deepcopy(config)
    ours.bbox_head.type = "FixedShape" + config.bbox_head.type
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmdet"):
        theirs, ours = MODELS.build(config), MODELS.build(ours)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def _shipped(path):
    return Path(find_spec("mmdet").origin).parent / ".mim" / "configs" / path


def _batch():
    samples, images = [], []
    for height, width, boxes in ((120, 160, [[10.0, 10, 90, 100], [60, 30, 150, 110]]), (100, 90, [[5.0, 40, 60, 95]])):
        sample = DetDataSample(
            metainfo={
                "img_shape": (height, width),
                "ori_shape": (height, width),
                "scale_factor": (1.0, 1.0),
            }
        )
        sample.gt_instances = InstanceData(bboxes=torch.tensor(boxes), labels=torch.arange(len(boxes)))
        sample.ignored_instances = InstanceData(bboxes=torch.tensor([[20.0, 20, 50, 60]]), labels=torch.tensor([0]))
        images.append(torch.randint(0, 256, (3, height, width), dtype=torch.uint8))
        samples.append(sample)
    return {"inputs": images, "data_samples": samples}


@pytest.mark.parametrize("name", SHIPPED)
def test_training_losses_and_detections(name):
    ours, theirs = _detectors(name)
    torch.manual_seed(1)
    batch = _batch()
    totals = []
    for model in (ours, theirs):
        model.train()
        data = model.data_preprocessor(copy.deepcopy(batch), training=True)
        totals.append(model.parse_losses(model(**data, mode="loss")))
    (total, shown), (expected, reference) = totals
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=0)
    assert set(shown) == set(reference)
    for key in reference:
        torch.testing.assert_close(shown[key].reshape(()), reference[key].reshape(()), rtol=1e-5, atol=1e-7)
    with torch.no_grad():
        found = []
        for model in (ours, theirs):
            model.eval()
            model.test_cfg.score_thr = 0.0
            found.append(model(**model.data_preprocessor(copy.deepcopy(batch), training=False), mode="predict"))
    for mine, reference in zip(*found, strict=True):
        assert len(mine.pred_instances) == len(reference.pred_instances) > 0
        assert torch.equal(mine.pred_instances.bboxes, reference.pred_instances.bboxes)
        assert torch.equal(mine.pred_instances.scores, reference.pred_instances.scores)
