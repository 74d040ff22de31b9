"""Faults of mmdet that would end a training, an evaluation or a demo; mended where mmdet itself reads the wrong thing.

Every entry says what fails. Attributes are added only where a class lacks them; methods go through the checks of
:mod:`mmcv_overrides.seams`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from mmdet.evaluation.functional import bbox_overlaps, recall
from mmdet.models import SSDHead
from mmdet.models.roi_heads import MultiInstanceRoIHead
from mmdet.models.roi_heads.mask_heads import fcn_mask_head
from mmdet.structures import SampleList
from mmdet.utils import InstanceList
from mmengine.structures import InstanceData
from torch import Tensor

from mmcv_overrides.seams import Override, apply

# Class, attribute, value, why. The attribute is set only where the class lacks it.
ABSENT: tuple[tuple[type, str, Any, str], ...] = (
    (
        SSDHead,
        "loss_cls",
        None,
        "BaseDenseHead.predict_by_feat asks every head for the channels of loss_cls; SSDHead computes its loss itself",
    ),
)
_crowd_loss = MultiInstanceRoIHead.loss


def loss_with_enough_boxes(
    self: Any, x: tuple[Tensor], rpn_results_list: InstanceList, batch_data_samples: SampleList
) -> dict[str, Tensor]:
    """CrowdDet's loss for images with any number of boxes.

    Every proposal is assigned ``num_instance`` boxes (2), which fails in an image with fewer boxes. Empty boxes marked
    as ignored, which overlap nothing, fill up the number; boxes of the data set that are ignored get the label -1,
    which the assigner takes for ignored.
    """
    for sample in batch_data_samples:
        fill_up(sample, int(self.bbox_head.num_instance))
    return _crowd_loss(self, x, rpn_results_list, batch_data_samples)


def fill_up(sample: Any, count: int) -> None:
    """Give a data sample at least ``count`` boxes, ignored ones among them."""
    boxes = sample.gt_instances.bboxes
    ignored = sample.ignored_instances.bboxes if "ignored_instances" in sample else boxes[:0]
    lacking = max(count - len(boxes) - len(ignored), 0)
    ignored = torch.cat((ignored, boxes.new_zeros(lacking, 4)))
    labels = torch.full((len(ignored),), -1, dtype=torch.long, device=boxes.device)
    sample.ignored_instances = InstanceData(bboxes=ignored, labels=labels)


_paste_mask = fcn_mask_head._do_paste_mask


def paste_mask(masks: Tensor, boxes: Tensor, img_h: int, img_w: int, skip_empty: bool = True) -> tuple[Tensor, tuple]:
    """Paste masks [N, 1, h, w] into an image as mmdet does; nothing where all boxes lie outside of the image."""
    low, high = boxes[:, :2].min(0).values.floor() - 1, boxes[:, 2:].max(0).values.ceil() + 1
    outside = bool((low >= high.new_tensor((img_w, img_h))).any() or (high <= 0).any())
    if skip_empty and outside:
        return masks.new_zeros(len(masks), 0, 0), (slice(0, 0), slice(0, 0))
    return _paste_mask(masks, boxes, img_h, img_w, skip_empty)


def eval_recalls(
    gts: list[np.ndarray],
    proposals: list[np.ndarray],
    proposal_nums: Sequence[int] | None = None,
    iou_thrs: float | Sequence[float] = 0.5,
    logger: Any = None,
    use_legacy_coordinate: bool = False,
) -> np.ndarray:
    """Recall of proposals as mmdet computes it, for images with different numbers of boxes.

    Args:
        gts: boxes [N, 4] of each image. proposals: [M, 4], or [M, 5] with scores.

    Returns:
        [number of ``proposal_nums``, number of ``iou_thrs``].
    """
    limits, thresholds = recall.set_recall_param(proposal_nums, iou_thrs)
    overlaps = np.empty(len(gts), dtype=object)
    for place, (boxes, found) in enumerate(zip(gts, proposals, strict=True)):
        if found.ndim == 2 and found.shape[1] == 5:
            found = found[np.argsort(found[:, 4])[::-1]]
        best = found[: limits[-1], :4]
        none = np.zeros((0, len(best)), dtype=np.float32)
        overlaps[place] = (
            bbox_overlaps(boxes, best, use_legacy_coordinate=use_legacy_coordinate) if len(boxes) else none
        )
    recalls = recall._recalls(overlaps, limits, thresholds)
    recall.print_recall_summary(recalls, limits, thresholds, logger=logger)
    return recalls


OVERRIDES = [
    Override(
        "mmdet.evaluation.metrics.coco_metric:eval_recalls",
        eval_recalls,
        "makes a rectangular array of overlaps, which numpy refuses where images have different numbers of boxes",
    ),
    Override(
        "mmdet.models.roi_heads.mask_heads.fcn_mask_head:_do_paste_mask",
        paste_mask,
        "fails where all boxes lie outside of the image",
    ),
    Override(
        "mmdet.models.roi_heads.multi_instance_roi_head:MultiInstanceRoIHead.loss",
        loss_with_enough_boxes,
        "fails in an image with fewer boxes than instances per proposal",
    ),
]


def add_absent() -> list[str]:
    """Add what classes of mmdet lack. Returns one line per attribute that was added."""
    added = []
    for owner, name, value, why in ABSENT:
        if not hasattr(owner, name):
            setattr(owner, name, value)
            added.append(f"{owner.__name__}.{name}: {why}")
    return added


@cache
def mend() -> None:
    """Install everything in this module; a second call does nothing."""
    add_absent()
    apply(OVERRIDES)
