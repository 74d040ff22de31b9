"""The graph of single-stage detectors (FCOS, FSAF, RetinaNet), up to the maps of the head; its end does the rest."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from fcos_train.deploy.onnx.heads import DenseHead
from fcos_train.deploy.onnx.spec import ExportGraph, GraphSpec, Selection, padded, require_size

Level = tuple[Tensor, Tensor, Tensor]  # boxes [B, n, 4] px, class scores and final scores [B, n, C]


class SingleStage(ExportGraph):
    """Backbone, neck, dense head and one of the ends.

    Args:
        model: the mmdet detector. reader: of its head. spec: what is asked for.

    Attributes:
        sizes: (height, width) of the maps of each level, at the example size.
    """

    def __init__(self, model: Any, reader: DenseHead, spec: GraphSpec) -> None:
        super().__init__(model, spec, Selection.of(model.test_cfg, spec.end))
        self.reader = reader
        if reader.traced is not reader.head:
            self.folded_head = reader.traced  # registered as a submodule so that it follows casts to another precision
        self.eval()
        with require_size(spec, f"multiples of {max(reader.strides)}"):
            maps = self._example_maps()
        self.sizes = [(int(level.shape[-2]), int(level.shape[-1])) for level in maps[0]]
        if not spec.dynamic_size:
            for level, (height, width) in enumerate(self.sizes):
                self.register_buffer(f"priors_{level}", reader.priors(level, height, width), persistent=False)
        self.outputs = self.end.outputs(self)
        self.decode = {
            **reader.info(self.end.in_strides),
            "strides": reader.strides,
            "anchors_per_place": reader.anchors,
            "score": "sigmoid" if reader.head.use_sigmoid_cls else "softmax",
            "score_factor": "ctr" if "ctr" in reader.parts else None,
        }

    @torch.no_grad()
    def _example_maps(self) -> tuple[list[Tensor], ...]:
        return self.maps(torch.zeros(1, 3, *self.spec.shape))

    # ---- traced ----

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images [B, 3, H, W] f32 -> one tensor for each of ``outputs``."""
        return self.end.finish(self, images, self.maps(images))

    def maps(self, images: Tensor, traced: bool = True) -> tuple[list[Tensor], ...]:
        """Maps (cls, box[, ctr]) of all levels; see :meth:`.heads.DenseHead.maps`."""
        return self.reader.maps(self.model.extract_feat(self.prepared(images)), traced, self.end.in_strides)

    def levels(self, images: Tensor, maps: tuple[list[Tensor], ...]) -> list[Level]:
        """Boxes, class scores and final scores of each level.

        Class scores are 0 where they do not exceed ``score_thr``. Final scores include the centerness and are also 0
        where the box is too small.
        """
        return [self._level(index, images, *(part[index] for part in maps)) for index in range(len(maps[0]))]

    def side(self, tensor: Tensor, axis: int, name: str) -> Any:
        """Size of an axis: a number, or an operator where the axis is dynamic.

        Args:
            name: one of :data:`.spec.AXES`.
        """
        side = tensor.shape[axis]
        return side if name in self.spec.dynamic else int(side)

    def _rows(self, level: Tensor, channels: int) -> Tensor:
        """[B, A * K, H, W] -> [B, H * W * A, K]."""
        return level.permute(0, 2, 3, 1).reshape(self.side(level, 0, "batch"), -1, channels)

    def _level(self, index: int, images: Tensor, cls: Tensor, box: Tensor, ctr: Tensor | None = None) -> Level:
        classes = self.reader.scores(self._rows(cls, self.reader.head.cls_out_channels))
        if self.spec.dynamic_size:
            priors = self.reader.priors(index, self.side(cls, 2, "height"), self.side(cls, 3, "width"))
        else:
            priors = self.get_buffer(f"priors_{index}")
        boxes = self.reader.decode(priors, self._rows(box, 4).float())
        if self.reader.clips:
            boxes = self._clip(boxes, images)
        passes = self.reader.passes(classes, self.selection.score_thr)
        counts = passes
        if self.selection.min_bbox_size >= 0:
            sides = boxes[..., 2:] - boxes[..., :2]
            counts = passes & (sides.min(-1, keepdim=True).values > self.selection.min_bbox_size)
        factor = None if ctr is None else self._rows(ctr, 1).sigmoid()
        final = self.reader.final(classes, factor, self.selection.score_thr)
        return boxes, classes * passes, final * counts

    def _clip(self, boxes: Tensor, images: Tensor) -> Tensor:
        """Clip boxes [B, n, 4] to the input."""
        if not self.spec.dynamic_size:
            height, width = self.spec.shape
            limit = boxes.new_tensor([width, height, width, height])
        else:
            sides = torch._shape_as_tensor(images).to(torch.float32)
            limit = torch.stack((sides[3], sides[2], sides[3], sides[2]))
        return torch.minimum(boxes.clamp(min=0.0), limit)

    # ---- PyTorch's result, never traced ----

    @torch.no_grad()
    def reference(self, images: Tensor) -> tuple[Tensor, ...]:
        """What the file is compared with; see :meth:`.ends.base.End.reference`."""
        return self.end.reference(self, images)

    @torch.no_grad()
    def mmdets(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Dets [B, T, 5] and labels [B, T] of mmdet's own prediction."""
        shape = tuple(images.shape[-2:])
        metas = [{"img_shape": shape, "ori_shape": shape, "pad_shape": shape}] * len(images)
        config = copy.deepcopy(self.model.test_cfg)
        config["score_thr"] = self.selection.score_thr
        maps = self.maps(images, traced=False)
        found = self.reader.head.predict_by_feat(*maps, batch_img_metas=metas, cfg=config, rescale=False)
        return padded(found, self.selection.max_per_img)
