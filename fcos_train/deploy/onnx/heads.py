"""How the maps of each kind of dense head become boxes: the traceable twin of mmdet's priors and coders.

A new head needs one :class:`DenseHead` and a line in :data:`HEADS`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fcos_train.deploy.onnx.level_folding import with_folded_norms
from mmcv_overrides.errors import UserError


class DenseHead:
    """Reads one mmdet head.

    Args:
        head: the ``bbox_head`` of a single-stage detector.

    Attributes:
        parts: names of the groups of maps ``forward`` of the head returns: cls, box and perhaps ctr.
        anchors: boxes of a place of the map.
        traced: the head as the graph has it: norms per level are folded into their convolutions.
    """

    parts: tuple[str, ...] = ("cls", "box")

    def __init__(self, head: nn.Module) -> None:
        self.head, self.traced = head, with_folded_norms(head)
        self.strides = [int(stride[0]) for stride in head.prior_generator.strides]
        self.anchors = int(head.prior_generator.num_base_priors[0])
        if getattr(head.loss_cls, "custom_cls_channels", False):
            raise UserError(f"{type(head).__name__}: a classification loss with its own channels cannot be exported")

    def maps(self, feats: tuple[Tensor, ...], traced: bool = True) -> tuple[list[Tensor], ...]:
        """Features of each level -> (cls, box[, ctr]), each a list of maps [B, K, H, W]; by the head itself if not
        ``traced``."""
        return tuple(list(group) for group in (self.traced if traced else self.head)(feats))

    def scores(self, logits: Tensor) -> Tensor:
        """[..., cls_out_channels] -> [..., C] in 0..1."""
        return logits.sigmoid() if self.head.use_sigmoid_cls else logits.softmax(-1)[..., :-1]

    def priors(self, level: int, height, width) -> Tensor:
        """Points [H*W, 2] or anchors [H*W*A, 4] of a level, in px, as operators on (possibly open) map sizes."""
        generator = self.head.prior_generator
        stride = [float(side) for side in generator.strides[level]]
        offset = float(getattr(generator, "offset", 0.0)) if self.is_point else 0.0
        x = (torch.arange(width, dtype=torch.float32) + offset) * stride[0]
        y = (torch.arange(height, dtype=torch.float32) + offset) * stride[1]
        columns = (x[None, :] + torch.zeros_like(y)[:, None]).reshape(-1)
        rows = (y[:, None] + torch.zeros_like(x)[None, :]).reshape(-1)
        points = torch.stack((columns, rows), dim=-1)
        if self.is_point:
            return points
        shifts = torch.cat((points, points), dim=-1)[:, None]
        return (shifts + generator.base_anchors[level].float()[None]).reshape(-1, 4)

    is_point = False

    def decode(self, priors: Tensor, box: Tensor) -> Tensor:
        """Priors [N, 2 or 4] and predictions [B, N, 4] -> boxes [B, N, 4] x1 y1 x2 y2 in px, not clipped."""
        raise NotImplementedError

    def info(self) -> dict[str, Any]:
        """For the sidecar: what a decoder of the raw maps must know."""
        raise NotImplementedError

    @property
    def clips(self) -> bool:
        """The coder cuts boxes at the border of the image."""
        return bool(getattr(self.head.bbox_coder, "clip_border", True))


class FCOSReader(DenseHead):
    """FCOS: distances to the four sides in px (after exp or stride), and a centerness."""

    parts = ("cls", "box", "ctr")
    is_point = True

    def __init__(self, head: nn.Module) -> None:
        super().__init__(head)
        _require_coder(head, "DistancePointBBoxCoder")

    def decode(self, priors: Tensor, box: Tensor) -> Tensor:
        return torch.cat((priors - box[..., :2], priors + box[..., 2:]), dim=-1)

    def info(self) -> dict[str, Any]:
        offset = float(self.head.prior_generator.offset)
        return {"kind": "distance", "order": "left top right bottom", "unit": "px", "offset": offset}


class AnchorReader(DenseHead):
    """RetinaNet and FSAF: anchors with the delta or the top-bottom-left-right coder."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__(head)
        self.coder = _require_coder(head, "DeltaXYWHBBoxCoder", "TBLRBBoxCoder")

    def decode(self, priors: Tensor, box: Tensor) -> Tensor:
        return (decode_tblr if self.coder == "TBLRBBoxCoder" else decode_delta)(self.head.bbox_coder, priors, box)

    def info(self) -> dict[str, Any]:
        coder = self.head.bbox_coder
        anchors = [[[float(v) for v in anchor] for anchor in level] for level in self.head.prior_generator.base_anchors]
        if self.coder == "TBLRBBoxCoder":
            return {
                "kind": "tblr",
                "order": "top bottom left right",
                "normalizer": _normalizer(coder),
                "anchors": anchors,
            }
        return {
            "kind": "delta",
            "order": "dx dy dw dh",
            "means": [float(v) for v in coder.means],
            "stds": [float(v) for v in coder.stds],
            "wh_ratio_clip": 16 / 1000,
            "anchors": anchors,
        }


def decode_delta(coder, anchors: Tensor, deltas: Tensor) -> Tensor:
    """Ren et al., Faster R-CNN, eq. 2, with mmdet's bound on the growth of a side."""
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    centre = (anchors[:, :2] + anchors[:, 2:]) * 0.5
    size = anchors[:, 2:] - anchors[:, :2]
    shift = size * deltas[..., :2]
    if coder.add_ctr_clamp:
        shift = shift.clamp(-float(coder.ctr_clamp), float(coder.ctr_clamp))
        growth = deltas[..., 2:].clamp(max=abs(math.log(16 / 1000)))
    else:
        bound = abs(math.log(16 / 1000))
        growth = deltas[..., 2:].clamp(-bound, bound)
    half = size * growth.exp() * 0.5
    return torch.cat((centre + shift - half, centre + shift + half), dim=-1)


def decode_tblr(coder, anchors: Tensor, sides: Tensor) -> Tensor:
    """FSAF (Zhu et al., 2019): top, bottom, left, right, in units of normalizer times the anchor's sides."""
    centre = (anchors[:, :2] + anchors[:, 2:]) * 0.5
    size = anchors[:, 2:] - anchors[:, :2]
    factors = _normalizer(coder)
    sides = sides * (factors if isinstance(factors, float) else sides.new_tensor(factors))
    top, bottom, left, right = (sides[..., i] for i in range(4))
    width, height, x, y = size[:, 0], size[:, 1], centre[:, 0], centre[:, 1]
    corners = (x - left * width, y - top * height, x + right * width, y + bottom * height)
    return torch.stack(corners, dim=-1)


def _normalizer(coder) -> float | list[float]:
    value = coder.normalizer
    return float(value) if isinstance(value, (int, float)) else [float(v) for v in value]


def _require_coder(head: nn.Module, *known: str) -> str:
    name = type(head.bbox_coder).__name__
    if name not in known:
        raise UserError(f"{type(head).__name__} with {name} cannot be exported; {' and '.join(known)} can")
    return name


# Head class (or one of its bases) -> reader. The first base in the order of resolution that is named here counts.
HEADS: dict[str, type[DenseHead]] = {
    "FCOSHead": FCOSReader,
    "FSAFHead": AnchorReader,
    "RetinaHead": AnchorReader,
}


def reader_of(head: nn.Module) -> DenseHead | None:
    """The reader for a head, or None when there is none."""
    names = [base.__name__ for base in type(head).__mro__]
    found = next((HEADS[name] for name in names if name in HEADS), None)
    return found(head) if found else None
