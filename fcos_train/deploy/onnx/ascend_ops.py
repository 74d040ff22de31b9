"""The custom operators of Ascend's ONNX parser, defined in numpy for onnx.ReferenceEvaluator and for tracing.

They are in the default ONNX domain, as ``atc`` expects. Each :class:`OpRun` is the definition of an operator; those in
:data:`OPERATORS` are used by the verification.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from fcos_train.deploy.onnx.ascend_two_stage import DeformableConv2D, RoiExtractor
from fcos_train.deploy.parts.suppression import suppress

# Domain of the operators while torch writes the graph and while onnx.checker checks it; removed from the file.
DOMAIN = "fcos_train"


def batch_multi_class_nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    score_threshold: float,
    iou_threshold: float,
    max_size_per_class: int,
    max_total_size: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Suppress each class, then take the best of all classes.

    Args:
        boxes: [B, N, C or 1, 4] x1 y1 x2 y2, float16 or float32.
        scores: [B, N, C], of the same type; candidates exceed ``score_threshold``.
        iou_threshold: a box is suppressed when its IoU with a better box of the class exceeds this.
        max_size_per_class, max_total_size: maximum number of kept boxes per class and per image.

    Returns:
        boxes [B, T, 4], scores [B, T], classes [B, T] (all in the type of the input, zero padded), number [B] int32;
        T = ``max_total_size``.
    """
    images, _, classes = scores.shape
    out_boxes = np.zeros((images, max_total_size, 4), boxes.dtype)
    out_scores = np.zeros((images, max_total_size), scores.dtype)
    out_classes = np.zeros((images, max_total_size), scores.dtype)
    number = np.zeros(images, np.int32)
    for image in range(images):
        rows: list[tuple[int, int]] = []
        for label in range(classes):
            own = boxes[image, :, label if boxes.shape[2] > 1 else 0]
            kept = suppress(own, scores[image, :, label], score_threshold, iou_threshold, max_size_per_class)
            rows += [(label, int(index)) for index in kept]
        values = np.array([scores[image, index, label] for label, index in rows], scores.dtype)
        for place, row in enumerate(np.argsort(-values, kind="stable")[:max_total_size]):
            label, index = rows[row]
            out_boxes[image, place] = boxes[image, index, label if boxes.shape[2] > 1 else 0]
            out_scores[image, place], out_classes[image, place] = values[row], label
        number[image] = min(len(rows), max_total_size)
    return out_boxes, out_scores, out_classes, number


class BatchMultiClassNMS(OpRun):
    """See :func:`batch_multi_class_nms`."""

    op_domain = ""

    def _run(self, boxes: np.ndarray, scores: np.ndarray, **attributes: Any) -> tuple[np.ndarray, ...]:
        return batch_multi_class_nms(boxes, scores, **attributes)


OPERATORS: list[type[OpRun]] = [BatchMultiClassNMS, RoiExtractor, DeformableConv2D]
