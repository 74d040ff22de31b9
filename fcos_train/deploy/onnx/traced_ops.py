"""Operators that tracing cannot express: each computes its value in numpy and writes its own ONNX nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fcos_train.deploy.onnx.ascend_ops import DOMAIN, batch_multi_class_nms
from fcos_train.deploy.parts.suppression import suppress


class _KeepMask(torch.autograd.Function):
    """Mask [B, N] f32 of the boxes [B, N, 4] that ONNX's NonMaxSuppression keeps.

    A mask has a fixed shape; the operator's list of kept boxes does not.
    """

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, one_class: Tensor, iou_threshold: float, most: int) -> Tensor:
        """Compute the mask. ``one_class`` [B, 1, N] repeats the scores [B, N] in the form that the operator takes."""
        mask = np.zeros(tuple(scores.shape), np.float32)  # numpy, so that none of this is traced
        for image, (own, values) in enumerate(zip(boxes.numpy(), scores.numpy(), strict=True)):
            mask[image, suppress(own, values, 0.0, iou_threshold, most)] = 1.0
        return torch.from_numpy(mask)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, one_class: Any, iou_threshold: float, most: int) -> Any:
        """Write NonMaxSuppression and the scattering of its indices into a mask."""

        def integers(*values: int) -> Any:
            return g.op("Constant", value_t=torch.tensor(values, dtype=torch.int64))

        def real(value: float) -> Any:
            return g.op("Constant", value_t=torch.tensor([value], dtype=torch.float32))

        # [k, 3]: image, class, box
        chosen = g.op("NonMaxSuppression", boxes, one_class, integers(most), real(iou_threshold), real(0.0))
        places = g.op("Gather", chosen, integers(0, 2), axis_i=1)
        count = g.op("Slice", g.op("Shape", places), integers(0), integers(1), integers(0))
        ones = g.op("ConstantOfShape", count, value_t=torch.ones(1))
        nothing = g.op("ConstantOfShape", g.op("Shape", scores), value_t=torch.zeros(1))
        return g.op("ScatterND", nothing, places, ones).setType(scores.type())


class _BatchMultiClassNMS(torch.autograd.Function):
    """Ascend's BatchMultiClassNMS."""

    @staticmethod
    def forward(
        ctx: Any,
        boxes: Tensor,
        scores: Tensor,
        score_threshold: float,
        iou_threshold: float,
        per_class: int,
        total: int,
    ) -> tuple[Tensor, ...]:
        """Compute the definition of the operator in numpy."""
        found = batch_multi_class_nms(boxes.numpy(), scores.numpy(), score_threshold, iou_threshold, per_class, total)
        return tuple(torch.from_numpy(array) for array in found)

    @staticmethod
    def symbolic(
        g: Any, boxes: Any, scores: Any, score_threshold: float, iou_threshold: float, per_class: int, total: int
    ) -> Any:
        """Write one node and the types of its outputs."""
        outputs = g.op(
            f"{DOMAIN}::BatchMultiClassNMS",
            boxes,
            scores,
            score_threshold_f=score_threshold,
            iou_threshold_f=iou_threshold,
            max_size_per_class_i=per_class,
            max_total_size_i=total,
            outputs=4,
        )
        batch = scores.type().sizes()[0] if scores.type().sizes() else None
        shapes = ([batch, total, 4], [batch, total], [batch, total])
        for output, shape in zip(outputs, shapes, strict=False):
            output.setType(scores.type().with_sizes(shape))
        outputs[3].setType(scores.type().with_dtype(torch.int32).with_sizes([batch]))
        return outputs


def keep_mask(boxes: Tensor, scores: Tensor, iou_threshold: float, most: int) -> Tensor:
    """Trace NonMaxSuppression.

    Args:
        boxes: [B, N, 4] px. scores: [B, N]; 0: not a candidate.
        iou_threshold: of the suppression. most: maximum number of kept boxes per image.

    Returns:
        [B, N] f32, 1 for kept boxes.
    """
    return _KeepMask.apply(boxes, scores, scores.unsqueeze(1), float(iou_threshold), int(most))


def multi_class_nms(
    boxes: Tensor, scores: Tensor, score_threshold: float, iou_threshold: float, per_class: int, total: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Trace Ascend's BatchMultiClassNMS; shapes as for :func:`.ascend_ops.batch_multi_class_nms`."""
    return _BatchMultiClassNMS.apply(
        boxes, scores, float(score_threshold), float(iou_threshold), int(per_class), int(total)
    )
