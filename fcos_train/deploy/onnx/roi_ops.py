"""Features of regions in a graph: ONNX's RoiAlign for every level with fixed shapes, or Ascend's RoiExtractor."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fcos_train.deploy.onnx.ascend_ops import DOMAIN
from fcos_train.deploy.onnx.untraced import untraced

# Opset from which RoiAlign has coordinate_transformation_mode=half_pixel; before, boxes below a pixel were widened.
FIRST_WITH_HALF_PIXEL = 16


def extract(extractor: nn.Module, feats: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
    """As mmdet's SingleRoIExtractor, without lists of changing length: each level pools all P boxes, but those of
    other levels as empty boxes, which cost one sample, and with weight 0.

    Args:
        feats: for each level [1, C, H, W]; more levels than the extractor has are ignored.
        boxes: [P, 4] in px.
    Returns:
        [P, C, h, w].
    """
    layers = extractor.roi_layers
    if len(layers) == 1:
        return _align(layers[0], feats[0], boxes)
    scale = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt() / extractor.finest_scale + 1e-6
    total: Tensor | float = 0.0
    for level, layer in enumerate(layers):
        own = torch.ones_like(scale)
        if level > 0:
            own = own * (scale >= 2.0**level).to(own.dtype)
        if level < len(layers) - 1:
            own = own * (scale < 2.0 ** (level + 1)).to(own.dtype)
        total = total + _align(layer, feats[level], boxes * own[:, None]) * own[:, None, None, None]
    return total


def extract_on_ascend(extractor: nn.Module, feats: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
    """As :func:`extract`, by one RoiExtractor."""
    rois = torch.cat((torch.zeros_like(boxes[:, :1]), boxes), 1)
    return _Extractor.apply(rois, extractor, *feats[: len(extractor.roi_layers)])


def _align(layer: nn.Module, feat: Tensor, boxes: Tensor) -> Tensor:
    return _RoiAlign.apply(feat, boxes, torch.zeros_like(boxes[:, 0]).to(torch.int64), layer)


class _RoiAlign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, feat, boxes, images, layer):
        with untraced():
            return layer(feat, torch.cat((images[:, None].to(boxes.dtype), boxes), 1))

    @staticmethod
    def symbolic(g, feat, boxes, images, layer):
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
    @staticmethod
    def forward(ctx, rois, extractor, *feats):
        with untraced():
            return extractor(feats, rois)

    @staticmethod
    def symbolic(g, rois, extractor, *feats):
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
