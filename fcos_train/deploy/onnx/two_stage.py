"""The graph of two-stage detectors (Faster R-CNN, Cascade R-CNN); their ends return detections.

Every tensor has a fixed shape: the first stage yields P proposals; unused ones are empty boxes, which later steps
ignore. The batch is one image, as in mmdet's own export and in Ascend's offline inference of these detectors.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from fcos_train.deploy.onnx.ends import detection_ends, end_of
from fcos_train.deploy.onnx.ends.base import DetectionEnd
from fcos_train.deploy.onnx.heads import AnchorReader, decode_delta
from fcos_train.deploy.onnx.spec import ExportGraph, GraphSpec, Selection, detection_outputs, padded, require_size
from mmcv_overrides.errors import UserError


def build(model: Any, spec: GraphSpec) -> TwoStage:
    """Build the graph of a detector.

    Raises:
        UserError: an end, an axis or a part of the detector that has no graph.
    """
    faults, end = [], end_of(spec.end)
    if not isinstance(end, DetectionEnd):
        faults.append(f"--end {spec.end}: a two-stage detector has the ends {' and '.join(detection_ends())}")
    if spec.dynamic:
        faults.append(f"--dynamic {' '.join(sorted(spec.dynamic))}: a two-stage graph has fixed shapes")
    if spec.batch != 1:
        faults.append(f"--batch {spec.batch}: a two-stage graph takes one image")
    faults += _unknown_parts(model)
    if faults or not isinstance(end, DetectionEnd):
        raise UserError(f"{type(model).__name__}: " + "; ".join(faults))
    return TwoStage(model, spec, end)


def _unknown_parts(model: Any) -> list[str]:
    """Parts of the detector that cannot be exported, one phrase each."""
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


def _stages(part: Any) -> list[Any]:
    return list(part) if isinstance(part, nn.ModuleList) else [part]


class TwoStage(ExportGraph):
    """Backbone, neck, RPN, the box heads of all stages and one of the ends that return detections.

    Args:
        model: the mmdet detector. spec: what is asked for. end: of the spec.

    Attributes:
        first: selection of the first stage.
        proposals: P.
        classes: C.
    """

    end: DetectionEnd
    border: Tensor  # [4], width height width height of the input in px

    def __init__(self, model: Any, spec: GraphSpec, end: DetectionEnd) -> None:
        super().__init__(model, spec, Selection.of(model.test_cfg["rcnn"], spec.end))
        self.eval()
        self.min_opset = end.two_stage_opset
        self.first = Selection.of(model.test_cfg["rpn"], spec.end)
        self.reader = AnchorReader(model.rpn_head)
        self.heads, self.extractors = _stages(model.roi_head.bbox_head), _stages(model.roi_head.bbox_roi_extractor)
        self.classes = int(self.heads[-1].num_classes)
        self.register_buffer("border", torch.tensor([*spec.shape[::-1], *spec.shape[::-1]]).float(), persistent=False)
        with require_size(spec, "multiples of 32"):
            sizes = self._sizes()
        for level, (height, width) in enumerate(sizes):
            self.register_buffer(f"priors_{level}", self.reader.priors(level, height, width), persistent=False)
        per_level = [height * width * self.reader.anchors for height, width in sizes]
        candidates = sum(min(self.first.nms_pre or count, count) for count in per_level)
        self.proposals = min(self.first.max_per_img, end.max_proposals or candidates, candidates)
        self.outputs = detection_outputs(spec, {})
        self.decode = {"kind": "detections", "proposals": self.proposals, "stages": len(self.heads)}

    @torch.no_grad()
    def _sizes(self) -> list[tuple[int, int]]:
        """(height, width) of the maps of each level."""
        maps, _ = self.reader.maps(self.model.extract_feat(torch.zeros(1, 3, *self.spec.shape)))
        return [(int(level.shape[2]), int(level.shape[3])) for level in maps]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [1, 3, H, W] f32 -> dets [1, T, 5] and labels [1, T]."""
        feats = self.model.extract_feat(self.prepared(images))
        cls, box = self.reader.maps(feats)
        levels = [self._level(index, *maps) for index, maps in enumerate(zip(cls, box, strict=True))]
        proposals, real = self.end.propose(self, levels)
        boxes, scores = self._second_stage(feats, proposals)
        return self.end.select(self, boxes, scores * real)

    # ---- first stage ----

    def _level(self, index: int, cls: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """The ``nms_pre`` best anchors of a level: boxes [n, 4] and scores [n], 0 where the box is too small."""
        priors = self.get_buffer(f"priors_{index}")
        scores = self.reader.scores(cls[0].permute(1, 2, 0).reshape(-1, self.reader.head.cls_out_channels))[:, 0]
        deltas = box[0].permute(1, 2, 0).reshape(-1, 4)
        most = self.first.nms_pre
        if most is not None and most < len(priors):
            scores, order = scores.topk(most)
            order = self.end.indices(order)
            priors, deltas = priors.index_select(0, order), deltas.index_select(0, order)
        boxes = self._clip(decode_delta(self.reader.head.bbox_coder, priors, deltas), self.reader.head.bbox_coder)
        if self.first.min_bbox_size >= 0:
            sides = (boxes[:, 2:] - boxes[:, :2]).min(1).values
            scores = scores * (sides > self.first.min_bbox_size).to(scores.dtype)
        return boxes, scores

    def _clip(self, boxes: Tensor, coder: Any) -> Tensor:
        """Clip boxes [..., 4] to the input, if the coder does."""
        if not getattr(coder, "clip_border", True):
            return boxes
        return torch.minimum(boxes.clamp(min=0.0), self.border)

    # ---- second stage ----

    def _second_stage(self, feats: tuple[Tensor, ...], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes [P, 4], or [P, C, 4] where the last head has boxes for each class; class probabilities [P, C]."""
        total: Any = 0.0  # then a tensor
        for stage, (head, extractor) in enumerate(zip(self.heads, self.extractors, strict=True)):
            if len(self.heads) > 1 or stage == 0:
                pooled = self.end.extract(extractor, feats, boxes)
            logits, deltas = head(pooled)
            total = total + logits
            if stage < len(self.heads) - 1:
                deltas = self._of_best_class(head, logits, deltas)
            boxes = self._refined(head, boxes, deltas)
        return boxes, (total / len(self.heads)).softmax(-1)[:, :-1]

    def _of_best_class(self, head: Any, logits: Tensor, deltas: Tensor) -> Tensor:
        """The deltas [P, 4] of each proposal's best class."""
        if head.reg_class_agnostic:
            return deltas
        best = logits[:, :-1].argmax(1).reshape(-1, 1, 1).expand(-1, 1, 4)
        return deltas.reshape(self.proposals, -1, 4).gather(1, best).reshape(-1, 4)

    def _refined(self, head: Any, boxes: Tensor, deltas: Tensor) -> Tensor:
        """Boxes after a stage: [P, 4], or [P, C, 4] where the head has boxes for each class."""
        several = int(deltas.shape[1]) // 4
        if several == 1:
            return self._clip(decode_delta(head.bbox_coder, boxes, deltas), head.bbox_coder)
        anchors = boxes.unsqueeze(1).expand(-1, several, 4).reshape(-1, 4)
        found = decode_delta(head.bbox_coder, anchors, deltas.reshape(-1, 4))
        return self._clip(found, head.bbox_coder).reshape(self.proposals, several, 4)

    # ---- PyTorch's result, never traced ----

    @torch.no_grad()
    def reference(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the file is compared with; see :meth:`.ends.base.DetectionEnd.two_stage_reference`."""
        return self.end.two_stage_reference(self, images)

    @torch.no_grad()
    def mmdets(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Dets [1, T, 5] and labels [1, T] of mmdet's own prediction."""
        shape = tuple(int(side) for side in images.shape[-2:])
        metas = [{"img_shape": shape, "ori_shape": shape, "pad_shape": shape}]
        feats = self.model.extract_feat(self.prepared(images))
        proposals = self.model.rpn_head.predict_by_feat(*self.model.rpn_head(feats), batch_img_metas=metas)
        head = self.model.roi_head
        config = copy.deepcopy(head.test_cfg)
        config.score_thr = self.selection.score_thr
        found = head.predict_bbox(feats, metas, proposals, rcnn_test_cfg=config, rescale=False)
        return padded(found, self.selection.max_per_img)
