"""Faults of mmdet that are mended: what failed works, and nothing is overwritten."""

import torch
from mmdet.models import SSDHead
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


def test_what_is_there_is_not_replaced(monkeypatch):
    class Mended:
        loss_cls = "of mmdet"

    class Lacking:
        pass

    rows = tuple((owner, "loss_cls", None, "why") for owner in (Mended, Lacking))
    monkeypatch.setattr(upstream, "ABSENT", rows)
    assert upstream.mend() == ["Lacking.loss_cls: why"]
    assert (Mended.loss_cls, Lacking.loss_cls) == ("of mmdet", None)
