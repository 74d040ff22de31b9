"""The ends of standard ONNX operators: raw maps, decoded boxes, and detections after NMS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fcos_train.deploy.onnx import roi_ops
from fcos_train.deploy.onnx.ends.base import DetectionEnd, End, Maps
from fcos_train.deploy.onnx.spec import Output
from fcos_train.deploy.onnx.traced_ops import keep_mask

if TYPE_CHECKING:
    from fcos_train.deploy.onnx.single_stage import SingleStage
    from fcos_train.deploy.onnx.two_stage import TwoStage


class Raw(End):
    """Maps [B, K, H_l, W_l]: cls_0.., box_0.., and ctr_0.. where the head has a centerness.

    cls and ctr are logits; box is what the head returns in evaluation.
    """

    def outputs(self, graph: SingleStage) -> tuple[Output, ...]:
        """One output per part and level."""
        found, dynamic = [], graph.spec.dynamic
        for part in graph.reader.parts:
            for level, stride in enumerate(graph.reader.strides):
                sides = {i: f"{axis}_{level}" for i, axis in ((2, "height"), (3, "width")) if axis in dynamic}
                info = {"part": part, "level": level, "stride": stride}
                found.append(Output(f"{part}_{level}", "map", {**graph.batch_axes(), **sides}, info))
        return tuple(found)

    def finish(self, graph: SingleStage, images: Tensor, maps: Maps) -> tuple[Tensor, ...]:
        """The maps themselves, part by part."""
        return tuple(level for part in maps for level in part)


class Decoded(End):
    """Boxes [B, N, 4] px, clipped to the input, and scores [B, N, C].

    A score is class score times centerness; 0 where the class score does not exceed ``score_thr`` or the box is too
    small.
    """

    def outputs(self, graph: SingleStage) -> tuple[Output, ...]:
        """Boxes and scores."""
        axes = {**graph.batch_axes(), **({1: "candidates"} if graph.spec.dynamic_size else {})}
        return Output("boxes", "boxes", axes, {"row": "x1 y1 x2 y2 in px"}), Output("scores", "scores", axes)

    def finish(self, graph: SingleStage, images: Tensor, maps: Maps) -> tuple[Tensor, ...]:
        """Concatenate boxes and final scores of all levels."""
        levels = graph.levels(images, maps)
        return torch.cat([boxes for boxes, _, _ in levels], 1), torch.cat([final for _, _, final in levels], 1)

    def reference(self, graph: SingleStage, images: Tensor) -> tuple[Tensor, ...]:
        """The same from mmdet's own priors and coder."""
        maps, head, select = graph.maps(images, traced=False), graph.reader.head, graph.selection
        priors = torch.cat(head.prior_generator.grid_priors([level.shape[-2:] for level in maps[0]], device="cpu"))

        def flat(part: list[Tensor], image: int, channels: int) -> Tensor:
            return torch.cat([level[image].permute(1, 2, 0).reshape(-1, channels) for level in part])

        boxes, scores = [], []
        for image in range(len(images)):
            own = head.bbox_coder.decode(priors, flat(maps[1], image, 4), max_shape=tuple(images.shape[-2:]))
            classes = graph.reader.scores(flat(maps[0], image, head.cls_out_channels))
            passes = graph.reader.passes(classes, select.score_thr)
            if select.min_bbox_size >= 0:
                passes = passes & ((own[:, 2:] - own[:, :2]) > select.min_bbox_size).all(1, keepdim=True)
            factor = flat(maps[2], image, 1).sigmoid() if len(maps) > 2 else None
            boxes.append(own)
            scores.append(graph.reader.final(classes, factor, select.score_thr) * passes)
        return torch.stack(boxes), torch.stack(scores)


class Nms(DetectionEnd):
    """Detections as mmdet returns them, by ONNX's NonMaxSuppression and RoiAlign."""

    two_stage_opset = roi_ops.FIRST_WITH_HALF_PIXEL

    # ---- single-stage ----

    def finish(self, graph: SingleStage, images: Tensor, maps: Maps) -> tuple[Tensor, Tensor]:
        """In mmdet's order: the best (place, class) pairs of each level by class score, then one suppression."""
        select, total = graph.selection, graph.selection.max_per_img
        chosen = [_best_pairs(graph, *level) for level in graph.levels(images, maps)]
        boxes, scores, labels = (torch.cat(parts, 1) for parts in zip(*chosen, strict=True))
        shift = torch.zeros_like(scores)
        if not select.class_agnostic:
            candidates = boxes * (scores > 0).unsqueeze(-1)
            reach = candidates.flatten(1).max(1, keepdim=True).values
            shift = labels * (reach + 1)
        mask = keep_mask(boxes + shift.unsqueeze(-1), scores, select.iou_threshold, total)
        values, order = _topk(scores * mask, total)
        rows = torch.gather(boxes, 1, order.unsqueeze(-1).expand(-1, -1, 4))
        found = (values > 0).to(values.dtype)
        dets = torch.cat((rows * found.unsqueeze(-1), values.unsqueeze(-1)), -1)
        return dets, (torch.gather(labels, 1, order) * found).to(torch.int64)

    def reference(self, graph: SingleStage, images: Tensor) -> tuple[Tensor, ...]:
        """mmdet's own prediction."""
        return graph.mmdets(images)

    # ---- two-stage ----

    def propose(self, graph: TwoStage, levels: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Suppress level by level, as mmdet does."""
        masked = []
        for boxes, scores in levels:
            kept = keep_mask(boxes[None], scores[None], graph.first.iou_threshold, graph.proposals)
            masked.append(scores * kept[0])
        values, order = torch.cat(masked).topk(graph.proposals)
        real = (values > 0).float().unsqueeze(1)
        return torch.cat([boxes for boxes, _ in levels]).index_select(0, order) * real, real

    def extract(self, extractor: Any, feats: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
        """ONNX's RoiAlign for every level."""
        return roi_ops.extract(extractor, feats, boxes)

    def select(self, graph: TwoStage, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Suppress each class (the classes are the operator's batch), then take the best of all classes."""
        select, total = graph.selection, graph.selection.max_per_img
        scores = (scores * (scores > select.score_thr).to(scores.dtype)).t()  # [C, P]
        boxes = boxes.unsqueeze(0).expand(graph.classes, -1, -1) if boxes.dim() == 2 else boxes.transpose(0, 1)
        if select.class_agnostic:
            mask = keep_mask(boxes.reshape(1, -1, 4), scores.reshape(1, -1), select.iou_threshold, total)
        else:
            mask = keep_mask(boxes, scores, select.iou_threshold, total)
        flat = scores.reshape(-1) * mask.reshape(-1)
        short = max(0, total - graph.classes * graph.proposals)
        values, order = nn.functional.pad(flat, (0, short)).topk(total)
        found = (values > 0).to(values.dtype)
        order = order * found.to(order.dtype)
        rows = boxes.reshape(-1, 4).index_select(0, order) * found.unsqueeze(1)
        labels = torch.div(order, graph.proposals, rounding_mode="trunc")
        return torch.cat((rows, values.unsqueeze(1)), 1)[None], labels[None]


def _best_pairs(graph: SingleStage, boxes: Tensor, classes: Tensor, final: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The ``nms_pre`` best (place, class) pairs of a level: boxes [B, k, 4], final scores and labels [B, k] f32."""
    count = classes.shape[2]
    flat, final = classes.flatten(1), final.flatten(1)
    most = graph.selection.nms_pre
    if graph.spec.dynamic_size:  # a fixed k for any size: empty pairs at the end
        pad = 1000 if most is None else most
        flat = nn.functional.pad(flat, (0, pad), value=-1.0)
        values, order = flat.topk(pad, dim=1)
        order = order * (values >= 0).to(order.dtype)
    else:
        values, order = flat.topk(min(most or flat.shape[1], int(flat.shape[1])), dim=1)
    real = (values > 0).to(values.dtype)
    place = torch.div(order, count, rounding_mode="trunc")
    labels = (order - place * count).to(torch.float32)
    rows = torch.gather(boxes, 1, place.unsqueeze(-1).expand(-1, -1, 4))
    return rows, torch.gather(final, 1, order) * real, labels


def _topk(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` best of [B, K]; where K is smaller, the first place is repeated with score 0."""
    short = count - int(scores.shape[1])
    if short <= 0:
        return scores.topk(count, dim=1)
    values, order = scores.topk(int(scores.shape[1]), dim=1)
    return nn.functional.pad(values, (0, short)), nn.functional.pad(order, (0, short))
