"""Pooling of region features in a graph: ONNX's RoiAlign for each level, or Ascend's RoiExtractor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fcos_train.deploy.onnx.ascend_ops import DOMAIN
from fcos_train.deploy.onnx.untraced import untraced

# Opset from which RoiAlign has coordinate_transformation_mode=half_pixel; before, boxes below a pixel were widened.
FIRST_WITH_HALF_PIXEL = 16


def extract(extractor: Any, feats: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
    """Trace mmdet's SingleRoIExtractor without lists of varying length.

    Each level pools all P boxes; boxes of other levels are made empty, which costs one sample, and have weight 0.

    Args:
        extractor: mmdet's SingleRoIExtractor.
        feats: for each level [1, C, H, W]; levels beyond those of the extractor are ignored.
        boxes: [P, 4] in px.

    Returns:
        [P, C, h, w].
    """
    layers = extractor.roi_layers
    if len(layers) == 1:
        return _align(layers[0], feats[0], boxes)
    scale = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt() / extractor.finest_scale + 1e-6
    total: Any = 0.0  # then a tensor
    for level, layer in enumerate(layers):
        own = torch.ones_like(scale)
        if level > 0:
            own = own * (scale >= 2.0**level).to(own.dtype)
        if level < len(layers) - 1:
            own = own * (scale < 2.0 ** (level + 1)).to(own.dtype)
        total = total + _align(layer, feats[level], boxes * own[:, None]) * own[:, None, None, None]
    return total


def extract_on_ascend(extractor: Any, feats: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
    """Trace one RoiExtractor; arguments and result as for :func:`extract`."""
    rois = torch.cat((torch.zeros_like(boxes[:, :1]), boxes), 1)
    return _Extractor.apply(rois, extractor, *feats[: len(extractor.roi_layers)])


def _align(layer: nn.Module, feat: Tensor, boxes: Tensor) -> Tensor:
    return _RoiAlign.apply(feat, boxes, torch.zeros_like(boxes[:, 0]).to(torch.int64), layer)


class _RoiAlign(torch.autograd.Function):
    """ONNX's RoiAlign of one level."""

    @staticmethod
    def forward(ctx: Any, feat: Tensor, boxes: Tensor, images: Tensor, layer: nn.Module) -> Tensor:
        """Pool boxes [P, 4] of images [P] from a map [1, C, H, W] with mmcv's layer: [P, C, h, w]."""
        with untraced():
            return layer(feat, torch.cat((images[:, None].to(boxes.dtype), boxes), 1))

    @staticmethod
    def symbolic(g: Any, feat: Any, boxes: Any, images: Any, layer: Any) -> Any:
        """Write one node."""
        height, width = layer.output_size
        pooled = g.op(
            "RoiAlign",
            feat,
            boxes,
            images,
            coordinate_transformation_mode_s="half_pixel",
            mode_s="avg",
            output_height_i=int(height),
            output_width_i=int(width),
            sampling_ratio_i=int(layer.sampling_ratio),
            spatial_scale_f=float(layer.spatial_scale),
        )
        count, channels = boxes.type().sizes()[0], feat.type().sizes()[1]
        return pooled.setType(feat.type().with_sizes([count, channels, int(height), int(width)]))


class _Extractor(torch.autograd.Function):
    """Ascend's RoiExtractor of all levels."""

    @staticmethod
    def forward(ctx: Any, rois: Tensor, extractor: nn.Module, *feats: Tensor) -> Tensor:
        """Pool regions [P, 5] (image, x1 y1 x2 y2) with mmdet's extractor: [P, C, h, w]."""
        with untraced():
            return extractor(feats, rois)

    @staticmethod
    def symbolic(g: Any, rois: Any, extractor: Any, *feats: Any) -> Any:
        """Write one node."""
        layer = extractor.roi_layers[0]
        height, width = (int(side) for side in layer.output_size)
        pooled = g.op(
            f"{DOMAIN}::RoiExtractor",
            *feats,
            rois,
            aligned_i=1,
            finest_scale_i=int(extractor.finest_scale),
            pooled_height_i=height,
            pooled_width_i=width,
            pool_mode_s="avg",
            roi_scale_factor_i=0,
            sample_num_i=int(layer.sampling_ratio),
            spatial_scale_f=[float(each.spatial_scale) for each in extractor.roi_layers],
        )
        return pooled.setType(
            feats[0].type().with_sizes([rois.type().sizes()[0], feats[0].type().sizes()[1], height, width])
        )
