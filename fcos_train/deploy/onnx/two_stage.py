"""Two-stage detectors (Faster R-CNN, Cascade R-CNN) with the ends ``nms`` and ``ascend``.

Every tensor has a fixed shape: P proposals come out of the first stage; unused ones are empty boxes, which no later
step counts. One image at a time, as mmdet's own export and the offline road of these detectors have it.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from fcos_train.deploy.onnx.heads import AnchorReader, _decode_delta
from fcos_train.deploy.onnx.roi_ops import MIN_OPSET, extract, extract_on_ascend
from fcos_train.deploy.onnx.spec import ExportGraph, GraphSpec, Selection, detection_outputs, padded
from fcos_train.deploy.onnx.traced_ops import keep_mask, multi_class_nms
from mmcv_overrides.errors import UserError

ASCEND_PROPOSALS = 500  # of the first stage on Ascend; mmdet's default is 1000


def build(model: nn.Module, spec: GraphSpec) -> TwoStage:
    """Raises UserError for an end, an axis or a part of the detector that has no graph."""
    faults = []
    if spec.end not in ("nms", "ascend"):
        faults.append(f"--end {spec.end}: a two-stage detector has the ends nms and ascend")
    if spec.dynamic:
        faults.append(f"--dynamic {' '.join(sorted(spec.dynamic))}: a two-stage graph has fixed shapes")
    if spec.batch != 1:
        faults.append(f"--batch {spec.batch}: a two-stage graph takes one image")
    faults += _unknown_parts(model)
    if faults:
        raise UserError(f"{type(model).__name__}: " + "; ".join(faults))
    return TwoStage(model, spec)


def _unknown_parts(model: nn.Module) -> list[str]:
    faults = []
    roi_head = model.roi_head
    if type(model.rpn_head).__name__ != "RPNHead":
        faults.append(f"first stage {type(model.rpn_head).__name__} cannot be exported; RPNHead can")
    if type(roi_head).__name__ not in ("StandardRoIHead", "CascadeRoIHead") or roi_head.with_mask:
        kind = type(roi_head).__name__ + (" with masks" if roi_head.with_mask else "")
        faults.append(f"second stage {kind} cannot be exported; StandardRoIHead and CascadeRoIHead for boxes can")
        return faults
    for extractor in {type(e).__name__: e for e in _stages(roi_head.bbox_roi_extractor)}.values():
        layer = extractor.roi_layers[0]
        sound = type(extractor).__name__ == "SingleRoIExtractor" and type(layer).__name__ == "RoIAlign"
        if not sound or not layer.aligned or layer.pool_mode != "avg":
            faults.append(f"{type(extractor).__name__} of {layer} cannot be exported; averages of aligned RoIAlign can")
    for head in _stages(roi_head.bbox_head):
        coder = type(head.bbox_coder).__name__
        if coder != "DeltaXYWHBBoxCoder" or head.custom_cls_channels or not head.with_reg:
            faults.append(f"{type(head).__name__} with {coder} cannot be exported")
    return faults


def _stages(part: nn.Module) -> list[nn.Module]:
    return list(part) if isinstance(part, nn.ModuleList) else [part]


class TwoStage(ExportGraph):
    """Backbone, neck, RPN, box heads of all stages, and one of two ends.

    * ``nms``: dets [1, T, 5] and labels [1, T] as mmdet's ``predict``: RPN suppresses level by level.
    * ``ascend``: the same outputs; RPN suppresses all levels together, 500 proposals at most.

    Attributes:
        proposals: P.
    """

    def __init__(self, model: nn.Module, spec: GraphSpec) -> None:
        super().__init__(model, spec, Selection.of(model.test_cfg["rcnn"], spec.end))
        self.eval()
        self.min_opset = MIN_OPSET[spec.end]
        self.first = Selection.of(model.test_cfg["rpn"], spec.end)
        self.reader = AnchorReader(model.rpn_head)
        self.heads, self.extractors = _stages(model.roi_head.bbox_head), _stages(model.roi_head.bbox_roi_extractor)
        self.classes = int(self.heads[-1].num_classes)
        self.register_buffer("border", torch.tensor([*spec.shape[::-1], *spec.shape[::-1]]).float(), persistent=False)
        sizes = self._sizes()
        for level, (height, width) in enumerate(sizes):
            self.register_buffer(f"priors_{level}", self.reader.priors(level, height, width), persistent=False)
        per_level = [height * width * self.reader.anchors for height, width in sizes]
        candidates = sum(min(self.first.nms_pre or count, count) for count in per_level)
        most = min(self.first.max_per_img, ASCEND_PROPOSALS) if spec.end == "ascend" else self.first.max_per_img
        self.proposals = min(most, candidates)
        self.outputs = detection_outputs(spec, {})
        self.decode = {"kind": "detections", "proposals": self.proposals, "stages": len(self.heads)}

    @torch.no_grad()
    def _sizes(self) -> list[tuple[int, int]]:
        try:
            maps, _ = self.reader.maps(self.model.extract_feat(torch.zeros(1, 3, *self.spec.shape)))
        except (RuntimeError, ValueError, AssertionError) as error:
            raise UserError(
                f"the network does not accept an input of {self.spec.shape[0]} x {self.spec.shape[1]} px ({error}); "
                f"try --shape with multiples of 32"
            ) from error
        return [(int(level.shape[2]), int(level.shape[3])) for level in maps]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        feats = self.model.extract_feat(self.prepared(images))
        proposals, real = self._first_stage(feats)
        boxes, scores = self._second_stage(feats, proposals)
        return (self._ascend if self.spec.end == "ascend" else self._nms)(boxes, scores * real)

    # ---- first stage ----

    def _first_stage(self, feats: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Proposals [P, 4] in px, best first, and [P, 1] f32, 1 for those that are real."""
        cls, box = self.reader.maps(feats)
        levels = [self._level(index, *maps) for index, maps in enumerate(zip(cls, box, strict=True))]
        if self.spec.end == "ascend":
            boxes, scores = (torch.cat(parts) for parts in zip(*levels, strict=True))
            rows, values = self._device_nms(
                boxes[None, :, None], scores[None, :, None], 0.0, self.first, self.proposals
            )[:2]
            return rows[0].float(), (values[0].float() > 0).float().unsqueeze(1)
        masked = []
        for boxes, scores in levels:
            masked.append(scores * keep_mask(boxes[None], scores[None], self.first.iou_threshold, self.proposals)[0])
        values, order = torch.cat(masked).topk(self.proposals)
        real = (values > 0).float().unsqueeze(1)
        return torch.cat([boxes for boxes, _ in levels]).index_select(0, order) * real, real

    def _level(self, index: int, cls: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """The ``nms_pre`` best anchors of a level: boxes [n, 4] and scores [n], 0 where the box is too small."""
        priors = getattr(self, f"priors_{index}")
        scores = self.reader.scores(cls[0].permute(1, 2, 0).reshape(-1, self.reader.head.cls_out_channels))[:, 0]
        deltas = box[0].permute(1, 2, 0).reshape(-1, 4)
        most = self.first.nms_pre
        if most is not None and most < len(priors):
            scores, order = scores.topk(most)
            order = order.to(torch.int32) if self.spec.end == "ascend" else order
            priors, deltas = priors.index_select(0, order), deltas.index_select(0, order)
        boxes = self._clip(_decode_delta(self.reader.head.bbox_coder, priors, deltas), self.reader.head.bbox_coder)
        if self.first.min_bbox_size >= 0:
            sides = (boxes[:, 2:] - boxes[:, :2]).min(1).values
            scores = scores * (sides > self.first.min_bbox_size).to(scores.dtype)
        return boxes, scores

    def _clip(self, boxes: Tensor, coder) -> Tensor:
        if not getattr(coder, "clip_border", True):
            return boxes
        return torch.minimum(boxes.clamp(min=0.0), self.border)

    # ---- second stage ----

    def _second_stage(self, feats: tuple[Tensor, ...], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [P, 4] or, where a head has boxes for each class, [P, C, 4]; class probabilities [P, C]."""
        total: Tensor | float = 0.0
        for stage, (head, extractor) in enumerate(zip(self.heads, self.extractors, strict=True)):
            if len(self.heads) > 1 or stage == 0:
                pooled = (extract_on_ascend if self.spec.end == "ascend" else extract)(extractor, feats, boxes)
            logits, deltas = head(pooled)
            total = total + logits
            if stage < len(self.heads) - 1:
                deltas = self._of_best_class(head, logits, deltas)
            boxes = self._refined(head, boxes, deltas)
        return boxes, (total / len(self.heads)).softmax(-1)[:, :-1]

    def _of_best_class(self, head: nn.Module, logits: Tensor, deltas: Tensor) -> Tensor:
        """Deltas [P, 4] of each proposal's best class."""
        if head.reg_class_agnostic:
            return deltas
        best = logits[:, :-1].argmax(1).reshape(-1, 1, 1).expand(-1, 1, 4)
        return deltas.reshape(self.proposals, -1, 4).gather(1, best).reshape(-1, 4)

    def _refined(self, head: nn.Module, boxes: Tensor, deltas: Tensor) -> Tensor:
        several = int(deltas.shape[1]) // 4
        if several == 1:
            return self._clip(_decode_delta(head.bbox_coder, boxes, deltas), head.bbox_coder)
        anchors = boxes.unsqueeze(1).expand(-1, several, 4).reshape(-1, 4)
        found = _decode_delta(head.bbox_coder, anchors, deltas.reshape(-1, 4))
        return self._clip(found, head.bbox_coder).reshape(self.proposals, several, 4)

    # ---- ends ----

    def _nms(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Suppression for each class (the classes are the batch of the operator), then the best of all."""
        scores = (scores * (scores > self.rules.score_thr).to(scores.dtype)).t()  # [C, P]
        boxes = boxes.unsqueeze(0).expand(self.classes, -1, -1) if boxes.dim() == 2 else boxes.transpose(0, 1)
        if self.rules.class_agnostic:
            mask = keep_mask(
                boxes.reshape(1, -1, 4), scores.reshape(1, -1), self.rules.iou_threshold, self.rules.max_per_img
            )
        else:
            mask = keep_mask(boxes, scores, self.rules.iou_threshold, self.rules.max_per_img)
        flat = scores.reshape(-1) * mask.reshape(-1)
        short = max(0, self.rules.max_per_img - self.classes * self.proposals)
        values, order = nn.functional.pad(flat, (0, short)).topk(self.rules.max_per_img)
        found = (values > 0).to(values.dtype)
        order = order * found.to(order.dtype)
        rows = boxes.reshape(-1, 4).index_select(0, order) * found.unsqueeze(1)
        labels = torch.div(order, self.proposals, rounding_mode="trunc")
        return torch.cat((rows, values.unsqueeze(1)), 1)[None], labels[None]

    def _ascend(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        boxes = boxes.unsqueeze(1) if boxes.dim() == 2 else boxes
        found = self._device_nms(boxes[None], scores[None], self.rules.score_thr, self.rules, self.rules.max_per_img)
        rows, values, labels = (part.float() for part in found[:3])
        return torch.cat((rows, values.unsqueeze(-1)), -1), labels.to(torch.int64)

    def _device_nms(self, boxes: Tensor, scores: Tensor, threshold: float, rules: Selection, total: int):
        if self.spec.half:
            boxes, scores = boxes.half(), scores.half()
        return multi_class_nms(boxes, scores, threshold, rules.iou_threshold, total, total)

    # ---- mmdet's own way, to compare with ----

    @torch.no_grad()
    def reference(self, images: Tensor) -> tuple[Tensor, ...]:
        return self(images) if self.spec.end == "ascend" else self.mmdets(images)

    @torch.no_grad()
    def mmdets(self, images: Tensor) -> tuple[Tensor, Tensor]:
        shape = tuple(int(side) for side in images.shape[-2:])
        metas = [{"img_shape": shape, "ori_shape": shape, "pad_shape": shape}]
        feats = self.model.extract_feat(self.prepared(images))
        proposals = self.model.rpn_head.predict_by_feat(*self.model.rpn_head(feats), batch_img_metas=metas)
        head = self.model.roi_head
        config = copy.deepcopy(head.test_cfg)
        config.score_thr = self.rules.score_thr
        found = head.predict_bbox(feats, metas, proposals, rcnn_test_cfg=config, rescale=False)
        return padded(found, self.rules.max_per_img)
