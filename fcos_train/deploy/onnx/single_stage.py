"""Single-stage detectors (FCOS, FSAF, RetinaNet) with each of the four ends."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from fcos_train.deploy.onnx.heads import DenseHead
from fcos_train.deploy.onnx.spec import ExportGraph, GraphSpec, Output, Selection, detection_outputs, padded
from fcos_train.deploy.onnx.traced_ops import keep_mask, multi_class_nms
from mmcv_overrides.errors import UserError


class SingleStage(ExportGraph):
    """Backbone, neck, dense head, and one of the ends.

    * ``raw``: maps [B, K, H_l, W_l]: cls_0.., box_0.., and ctr_0.. where the head has a centerness; cls and ctr are
      logits, box is what the head returns in evaluation.
    * ``decoded``: boxes [B, N, 4] px, cut at the border, and scores [B, N, C] (class score times centerness; 0 where
      the class score does not pass ``score_thr``, or the box is too small).
    * ``nms``: dets [B, T, 5] and labels [B, T], as mmdet's ``predict_by_feat``.
    * ``ascend``: the same outputs; a fixed TopK of places for each level, then BatchMultiClassNMS.
    """

    def __init__(self, model: nn.Module, reader: DenseHead, spec: GraphSpec) -> None:
        super().__init__(model, spec, Selection.of(model.test_cfg, spec.end))
        self.reader = reader
        if reader.traced is not reader.head:
            self.folded_head = reader.traced  # a part of this module, for its precision to follow
        self.eval()
        maps = self._first_maps()
        self.sizes = [tuple(int(side) for side in level.shape[-2:]) for level in maps[0]]
        if not spec.moving:
            for level, (height, width) in enumerate(self.sizes):
                self.register_buffer(f"priors_{level}", reader.priors(level, height, width), persistent=False)
        self.outputs = self._outputs()
        self.decode = {
            **reader.info(),
            "strides": reader.strides,
            "anchors_per_place": reader.anchors,
            "score": "sigmoid" if reader.head.use_sigmoid_cls else "softmax",
            "score_factor": "ctr" if "ctr" in reader.parts else None,
        }

    @torch.no_grad()
    def _first_maps(self) -> tuple[list[Tensor], ...]:
        """Maps of the example size, to learn their sides. Raises UserError where the network refuses the size."""
        try:
            return self._maps(torch.zeros(1, 3, *self.spec.shape))
        except (RuntimeError, ValueError, AssertionError) as error:
            largest = max(self.reader.strides)
            raise UserError(
                f"the network does not accept an input of {self.spec.shape[0]} x {self.spec.shape[1]} px ({error}); "
                f"try --shape with multiples of {largest}"
            ) from error

    # ---- what the outputs are called ----

    def _outputs(self) -> tuple[Output, ...]:
        axes = self.batch_axes()
        if self.spec.end in ("nms", "ascend"):
            return detection_outputs(self.spec, axes)
        if self.spec.end == "decoded":
            open_axes = {**axes, **({1: "candidates"} if self.spec.moving else {})}
            return Output("boxes", "boxes", open_axes, {"row": "x1 y1 x2 y2 in px"}), Output(
                "scores", "scores", open_axes
            )
        found = []
        for part in self.reader.parts:
            for level, stride in enumerate(self.reader.strides):
                own = {i: f"{axis}_{level}" for i, axis in ((2, "height"), (3, "width")) if axis in self.spec.dynamic}
                info = {"part": part, "level": level, "stride": stride}
                found.append(Output(f"{part}_{level}", "map", {**axes, **own}, info))
        return tuple(found)

    # ---- the traced way ----

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self._end(images, self._maps(images))

    def _end(self, images: Tensor, maps: tuple[list[Tensor], ...]) -> tuple[Tensor, ...]:
        if self.spec.end == "raw":
            return tuple(level for part in maps for level in part)
        levels = [self._level(i, images, *(part[i] for part in maps)) for i in range(len(maps[0]))]
        if self.spec.end == "decoded":
            return torch.cat([boxes for boxes, _, _ in levels], 1), torch.cat([final for _, _, final in levels], 1)
        return self._ascend(levels) if self.spec.end == "ascend" else self._nms(levels)

    def _maps(self, images: Tensor, traced: bool = True) -> tuple[list[Tensor], ...]:
        return self.reader.maps(self.model.extract_feat(self.prepared(images)), traced)

    def _size(self, tensor: Tensor, axis: int, name: str):
        """A side of a tensor: a number, or an operator where the axis is open."""
        side = tensor.shape[axis]
        return side if name in self.spec.dynamic else int(side)

    def _rows(self, level: Tensor, channels: int) -> Tensor:
        """[B, A * K, H, W] -> [B, H * W * A, K]."""
        return level.permute(0, 2, 3, 1).reshape(self._size(level, 0, "batch"), -1, channels)

    def _level(self, index: int, images: Tensor, cls: Tensor, box: Tensor, ctr: Tensor | None = None):
        """Boxes [B, n, 4], class scores and final scores [B, n, C] of a level."""
        classes = self.reader.scores(self._rows(cls, self.reader.head.cls_out_channels))
        if self.spec.moving:
            priors = self.reader.priors(index, self._size(cls, 2, "height"), self._size(cls, 3, "width"))
        else:
            priors = getattr(self, f"priors_{index}")
        boxes = self.reader.decode(priors, self._rows(box, 4).float())
        if self.reader.clips:
            boxes = self._clip(boxes, images)
        passes = classes > self.rules.score_thr
        counts = passes
        if self.rules.min_bbox_size >= 0:
            counts = passes & _both(boxes[..., 2:] - boxes[..., :2], self.rules.min_bbox_size)
        final = classes if ctr is None else classes * self._rows(ctr, 1).sigmoid()
        return boxes, classes * passes, final * counts

    def _clip(self, boxes: Tensor, images: Tensor) -> Tensor:
        """Cut at the border of the input."""
        if not self.spec.moving:
            height, width = self.spec.shape
            limit = boxes.new_tensor([width, height, width, height])
        else:
            sides = torch._shape_as_tensor(images).to(torch.float32)
            limit = torch.stack((sides[3], sides[2], sides[3], sides[2]))
        return torch.minimum(boxes.clamp(min=0.0), limit)

    def _nms(self, levels) -> tuple[Tensor, Tensor]:
        """mmdet's order: the best (place, class) pairs of each level by class score, then one suppression."""
        chosen = [self._best_pairs(*level) for level in levels]
        boxes, scores, labels = (torch.cat(parts, 1) for parts in zip(*chosen, strict=True))
        shift = torch.zeros_like(scores)
        if not self.rules.class_agnostic:
            candidates = boxes * (scores > 0).unsqueeze(-1)
            reach = candidates.flatten(1).max(1, keepdim=True).values
            shift = labels * (reach + 1)
        mask = keep_mask(boxes + shift.unsqueeze(-1), scores, self.rules.iou_threshold, self.rules.max_per_img)
        total = self.rules.max_per_img
        values, order = _topk(scores * mask, total)
        rows = torch.gather(boxes, 1, order.unsqueeze(-1).expand(-1, -1, 4))
        found = (values > 0).to(values.dtype)
        dets = torch.cat((rows * found.unsqueeze(-1), values.unsqueeze(-1)), -1)
        return dets, (torch.gather(labels, 1, order) * found).to(torch.int64)

    def _best_pairs(self, boxes: Tensor, classes: Tensor, final: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The ``nms_pre`` best (place, class) pairs of a level: boxes [B, k, 4], final scores and labels [B, k] f32."""
        count = classes.shape[2]
        flat, final = classes.flatten(1), final.flatten(1)
        most = self.rules.nms_pre
        if self.spec.moving:  # a fixed k for any size: empty pairs at the end
            pad = 1000 if most is None else most
            flat = torch.nn.functional.pad(flat, (0, pad), value=-1.0)
            values, order = flat.topk(pad, dim=1)
            order = order * (values >= 0).to(order.dtype)
            real = (values > 0).to(values.dtype)
        else:
            values, order = flat.topk(min(most or flat.shape[1], int(flat.shape[1])), dim=1)
            real = (values > 0).to(values.dtype)
        place = torch.div(order, count, rounding_mode="trunc")
        labels = (order - place * count).to(torch.float32)
        rows = torch.gather(boxes, 1, place.unsqueeze(-1).expand(-1, -1, 4))
        return rows, torch.gather(final, 1, order) * real, labels

    def _ascend(self, levels) -> tuple[Tensor, Tensor]:
        """mmdet 2.x's order for accelerators: the best places of each level by their best final score."""
        boxes, scores = (torch.cat(parts, 1) for parts in zip(*(self._best_places(*level) for level in levels)))
        boxes = boxes.unsqueeze(2)
        if self.spec.half:
            boxes, scores = boxes.half(), scores.half()
        # Scores are masked by the threshold already, before the centerness; without one the device may do it again.
        threshold = 0.0 if "ctr" in self.reader.parts else self.rules.score_thr
        total = self.rules.max_per_img
        rows, values, labels, _ = multi_class_nms(boxes, scores, threshold, self.rules.iou_threshold, total, total)
        dets = torch.cat((rows, values.unsqueeze(-1)), -1).float()
        return dets, labels.float().to(torch.int64)

    def _best_places(self, boxes: Tensor, classes: Tensor, final: Tensor) -> tuple[Tensor, Tensor]:
        """At most ``nms_pre`` places of a level: boxes [B, k, 4], final scores [B, k, C]; int32 index arithmetic."""
        places = int(boxes.shape[1])
        if self.rules.nms_pre is None or places <= self.rules.nms_pre:
            return boxes, final
        batch = self._size(boxes, 0, "batch")
        _, order = final.max(2).values.topk(self.rules.nms_pre, dim=1)
        first = torch.arange(batch, dtype=torch.int32).unsqueeze(1) * places
        index = (order.to(torch.int32) + first).reshape(-1)
        rows = boxes.reshape(-1, 4).index_select(0, index).reshape(batch, self.rules.nms_pre, 4)
        classes = int(final.shape[2])
        final = final.reshape(-1, classes).index_select(0, index).reshape(batch, self.rules.nms_pre, classes)
        return rows, final

    # ---- mmdet's own way, to compare with ----

    @torch.no_grad()
    def reference(self, images: Tensor) -> tuple[Tensor, ...]:
        if self.spec.end == "nms":
            return self.mmdets(images)
        maps = self._maps(images, traced=False)
        return self._reference_decoded(maps, images) if self.spec.end == "decoded" else self._end(images, maps)

    @torch.no_grad()
    def mmdets(self, images: Tensor) -> tuple[Tensor, Tensor]:
        shape = tuple(images.shape[-2:])
        metas = [{"img_shape": shape, "ori_shape": shape, "pad_shape": shape}] * len(images)
        config = copy.deepcopy(self.model.test_cfg)
        config["score_thr"] = self.rules.score_thr
        maps = self._maps(images, traced=False)
        found = self.reader.head.predict_by_feat(*maps, batch_img_metas=metas, cfg=config, rescale=False)
        return padded(found, self.rules.max_per_img)

    def _reference_decoded(self, maps, images: Tensor) -> tuple[Tensor, Tensor]:
        head = self.reader.head
        priors = torch.cat(head.prior_generator.grid_priors([level.shape[-2:] for level in maps[0]], device="cpu"))

        def flat(part: list[Tensor], image: int, channels: int) -> Tensor:
            return torch.cat([level[image].permute(1, 2, 0).reshape(-1, channels) for level in part])

        boxes, scores = [], []
        for image in range(len(images)):
            own = head.bbox_coder.decode(priors, flat(maps[1], image, 4), max_shape=tuple(images.shape[-2:]))
            classes = self.reader.scores(flat(maps[0], image, head.cls_out_channels))
            passes = classes > self.rules.score_thr
            if self.rules.min_bbox_size >= 0:
                passes = passes & ((own[:, 2:] - own[:, :2]) > self.rules.min_bbox_size).all(1, keepdim=True)
            if len(maps) > 2:
                classes = classes * flat(maps[2], image, 1).sigmoid()
            boxes.append(own)
            scores.append(classes * passes)
        return torch.stack(boxes), torch.stack(scores)


def _both(sides: Tensor, least: float) -> Tensor:
    """[B, n, 2] -> [B, n, 1]: both sides are larger."""
    return sides.min(-1, keepdim=True).values > least


def _topk(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` best of [B, K]; where K is smaller, the first place is repeated with score 0."""
    short = count - int(scores.shape[1])
    if short <= 0:
        return scores.topk(count, dim=1)
    values, order = scores.topk(int(scores.shape[1]), dim=1)
    pad = torch.nn.functional.pad
    return pad(values, (0, short)), pad(order, (0, short))
