"""The end for Ascend's ATC: detections by the custom operators of its ONNX parser, fixed shapes, half precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fcos_train.deploy.onnx import deform_conv, roi_ops
from fcos_train.deploy.onnx.ends.base import DetectionEnd, Maps
from fcos_train.deploy.onnx.traced_ops import multi_class_nms

if TYPE_CHECKING:
    from fcos_train.deploy.onnx.single_stage import SingleStage
    from fcos_train.deploy.onnx.spec import ExportGraph
    from fcos_train.deploy.onnx.two_stage import TwoStage


class Ascend(DetectionEnd):
    """Detections by BatchMultiClassNMS, RoiExtractor and DeformableConv2D.

    Single-stage: a fixed TopK of places for each level, then one suppression. Two-stage: the first stage suppresses
    all levels together and yields at most 500 proposals (mmdet's default is 1000).
    """

    default_opset = 11  # the parser knows the custom operators up to 16
    deform_conv_opset = 0
    fixed_size = True
    half_precision = True
    selects_as_mmdet = False
    max_proposals = 500

    def deform_conv(self, call: deform_conv.Call) -> Tensor:
        """DeformableConv2D."""
        return deform_conv.on_ascend(call)

    # ---- single-stage ----

    def finish(self, graph: SingleStage, images: Tensor, maps: Maps) -> tuple[Tensor, Tensor]:
        """In mmdet 2.x's order for accelerators: the best places of each level by their best final score."""
        chosen = [_best_places(graph, boxes, final) for boxes, _, final in graph.levels(images, maps)]
        boxes, scores = (torch.cat(parts, 1) for parts in zip(*chosen, strict=True))
        # Scores are already masked by the threshold, before the centerness; without one the device may do it again.
        threshold = 0.0 if "ctr" in graph.reader.parts else graph.selection.score_thr
        total = graph.selection.max_per_img
        rows, values, labels = _suppressed(
            graph, boxes.unsqueeze(2), scores, threshold, graph.selection.iou_threshold, total
        )
        dets = torch.cat((rows, values.unsqueeze(-1)), -1).float()
        return dets, labels.float().to(torch.int64)

    # ---- two-stage ----

    def indices(self, order: Tensor) -> Tensor:
        """Index arithmetic is in int32."""
        return order.to(torch.int32)

    def propose(self, graph: TwoStage, levels: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Suppress all levels together."""
        boxes, scores = (torch.cat(parts) for parts in zip(*levels, strict=True))
        rows, values, _ = _suppressed(
            graph, boxes[None, :, None], scores[None, :, None], 0.0, graph.first.iou_threshold, graph.proposals
        )
        return rows[0].float(), (values[0].float() > 0).float().unsqueeze(1)

    def extract(self, extractor: Any, feats: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
        """One RoiExtractor."""
        return roi_ops.extract_on_ascend(extractor, feats, boxes)

    def select(self, graph: TwoStage, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Suppress each class, then take the best of all classes."""
        boxes = boxes.unsqueeze(1) if boxes.dim() == 2 else boxes
        select = graph.selection
        found = _suppressed(
            graph, boxes[None], scores[None], select.score_thr, select.iou_threshold, select.max_per_img
        )
        rows, values, labels = (part.float() for part in found)
        return torch.cat((rows, values.unsqueeze(-1)), -1), labels.to(torch.int64)

    def two_stage_reference(self, graph: TwoStage, images: Tensor) -> tuple[Tensor, ...]:
        """The graph itself in PyTorch: mmdet selects other proposals."""
        return graph(images)


def _suppressed(
    graph: ExportGraph, boxes: Tensor, scores: Tensor, score_thr: float, iou_thr: float, total: int
) -> tuple[Tensor, Tensor, Tensor]:
    """BatchMultiClassNMS of boxes [B, N, C or 1, 4] and scores [B, N, C].

    Returns:
        boxes [B, total, 4], scores [B, total] and classes [B, total], in half precision if the graph is.
    """
    if graph.half_precision:
        boxes, scores = boxes.half(), scores.half()
    return multi_class_nms(boxes, scores, score_thr, iou_thr, total, total)[:3]


def _best_places(graph: SingleStage, boxes: Tensor, final: Tensor) -> tuple[Tensor, Tensor]:
    """At most ``nms_pre`` places of a level: boxes [B, k, 4], final scores [B, k, C]; int32 index arithmetic."""
    places, most = int(boxes.shape[1]), graph.selection.nms_pre
    if most is None or places <= most:
        return boxes, final
    batch = graph.side(boxes, 0, "batch")
    _, order = final.max(2).values.topk(most, dim=1)
    first = torch.arange(batch, dtype=torch.int32).unsqueeze(1) * places
    index = (order.to(torch.int32) + first).reshape(-1)
    rows = boxes.reshape(-1, 4).index_select(0, index).reshape(batch, most, 4)
    classes = int(final.shape[2])
    return rows, final.reshape(-1, classes).index_select(0, index).reshape(batch, most, classes)
