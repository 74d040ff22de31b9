"""How the maps of each kind of dense head become boxes: mmdet's priors and coders in traceable form.

A new head needs one :class:`DenseHead` and an entry in :data:`HEADS`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fcos_train.deploy.onnx.level_folding import with_folded_norms
from mmcv_overrides.errors import UserError


class DenseHead:
    """Reads one mmdet head.

    Args:
        head: the ``bbox_head`` of a single-stage detector.

    Attributes:
        head: mmdet has no type annotations, hence Any.
        parts: names of the groups of maps that the head returns: cls, box and, for some, ctr.
        strides: of each level, in px.
        anchors: number of boxes per position of the map.
        traced: the head as it is traced: norms per level are folded into their convolutions.
        is_point: priors are points instead of anchors.
    """

    parts: tuple[str, ...] = ("cls", "box")
    is_point = False

    def __init__(self, head: Any) -> None:
        self.head: Any = head
        self.traced: Any = with_folded_norms(head)
        self.strides = [int(stride[0]) for stride in head.prior_generator.strides]
        self.anchors = int(head.prior_generator.num_base_priors[0])
        if getattr(head.loss_cls, "custom_cls_channels", False):
            raise UserError(f"{type(head).__name__}: a classification loss with its own channels cannot be exported")

    def maps(
        self, feats: tuple[Tensor, ...], traced: bool = True, in_strides: bool = False
    ) -> tuple[list[Tensor], ...]:
        """Compute the maps (cls, box[, ctr]), each a list of [B, K, H, W], one per level.

        Args:
            feats: features of each level.
            traced: compute them with the head as it is traced, else with the original head.
            in_strides: distances are in strides, not in px; of no effect on other kinds of boxes.
        """
        return tuple(list(group) for group in (self.traced if traced else self.head)(feats))

    def scores(self, logits: Tensor) -> Tensor:
        """Logits [..., cls_out_channels] -> scores [..., C], 0 to 1."""
        return logits.sigmoid() if self.head.use_sigmoid_cls else logits.softmax(-1)[..., :-1]

    def passes(self, classes: Tensor, score_thr: float) -> Tensor:
        """Which class scores [..., C] count, as bool."""
        return classes > score_thr

    def final(self, classes: Tensor, factor: Tensor | None, score_thr: float) -> Tensor:
        """Final scores [..., C] of class scores and, for some heads, a factor [..., 1]; 0 where they do not count."""
        return classes if factor is None else classes * factor

    def priors(self, level: int, height: Any, width: Any) -> Tensor:
        """Points [H*W, 2] or anchors [H*W*A, 4] of a level, in px.

        Args:
            height, width: of the map: numbers, or operators where the size is dynamic.
        """
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

    def decode(self, priors: Tensor, box: Tensor) -> Tensor:
        """Decode priors [N, 2 or 4] and predictions [B, N, 4] to boxes [B, N, 4], x1 y1 x2 y2 in px, not clipped."""
        raise NotImplementedError

    def info(self, in_strides: bool = False) -> dict[str, Any]:
        """What a decoder of the raw maps must know; written to the description. ``in_strides`` as for :meth:`maps`."""
        raise NotImplementedError

    @property
    def clips(self) -> bool:
        """Whether the coder clips boxes to the image."""
        return bool(getattr(self.head.bbox_coder, "clip_border", True))


class FCOSReader(DenseHead):
    """FCOS: distances to the four sides in px (after exp or stride), and centerness."""

    parts = ("cls", "box", "ctr")
    is_point = True

    def __init__(self, head: Any) -> None:
        super().__init__(head)
        _require_coder(head, "DistancePointBBoxCoder")
        self.sqrt = bool(getattr(head, "sqrt_score", False))
        self.threshold_on = getattr(head, "threshold_on", "cls")

    def passes(self, classes: Tensor, score_thr: float) -> Tensor:
        """With a threshold on the square root, the probability alone must exceed its square."""
        return super().passes(classes, score_thr**2 if self.threshold_on == "score" else score_thr)

    def final(self, classes: Tensor, factor: Tensor | None, score_thr: float) -> Tensor:
        """The product with the centerness, or its square root."""
        product = super().final(classes, factor, score_thr)
        if not self.sqrt:
            return product
        score = product.sqrt()
        return score * (score > score_thr) if self.threshold_on == "score" else score

    def decode(self, priors: Tensor, box: Tensor) -> Tensor:
        """Points [N, 2] and distances [B, N, 4] -> boxes [B, N, 4]."""
        return torch.cat((priors - box[..., :2], priors + box[..., 2:]), dim=-1)

    def maps(
        self, feats: tuple[Tensor, ...], traced: bool = True, in_strides: bool = False
    ) -> tuple[list[Tensor], ...]:
        """As for every head; distances in strides are the result of the head before it multiplies by the stride."""
        if not in_strides:
            return super().maps(feats, traced)
        with _unit_strides(self.traced if traced else self.head):
            cls, box, ctr = super().maps(feats, traced)
        if not self.head.norm_on_bbox:  # exp(x) px
            box = [level / stride for level, stride in zip(box, self.strides, strict=True)]
        return cls, box, ctr

    def info(self, in_strides: bool = False) -> dict[str, Any]:
        """Distances in px, or in strides."""
        offset = float(self.head.prior_generator.offset)
        rule = {"sqrt": True, "threshold_on": self.threshold_on} if self.sqrt else {}
        unit = {"unit": "stride", "stride_units": True} if in_strides else {"unit": "px"}
        return {"kind": "distance", "order": "left top right bottom", **unit, "offset": offset, **rule}


class AnchorReader(DenseHead):
    """RetinaNet and FSAF: anchors with the delta or the top-bottom-left-right coder."""

    def __init__(self, head: Any) -> None:
        super().__init__(head)
        self.coder = _require_coder(head, "DeltaXYWHBBoxCoder", "TBLRBBoxCoder")

    def decode(self, priors: Tensor, box: Tensor) -> Tensor:
        """Anchors [N, 4] and predictions [B, N, 4] -> boxes [B, N, 4]."""
        return (decode_tblr if self.coder == "TBLRBBoxCoder" else decode_delta)(self.head.bbox_coder, priors, box)

    def info(self, in_strides: bool = False) -> dict[str, Any]:
        """Base anchors of each level in px, and the parameters of the coder."""
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


@contextmanager
def _unit_strides(head: Any) -> Iterator[None]:
    """Within this context the head of an FCOS returns distances in strides, if it predicts them so."""
    strides = head.strides
    head.strides = [1] * len(strides)
    try:
        yield
    finally:
        head.strides = strides


def decode_delta(coder: Any, anchors: Tensor, deltas: Tensor) -> Tensor:
    """Decode deltas [..., N, 4] of anchors [N, 4] to boxes [..., N, 4] in px.

    Faster R-CNN (https://arxiv.org/abs/1506.01497), eq. 2, with mmdet's bound on the growth of a side.
    """
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


def decode_tblr(coder: Any, anchors: Tensor, sides: Tensor) -> Tensor:
    """Decode distances [..., N, 4] (top bottom left right) to boxes [..., N, 4] in px.

    FSAF (https://arxiv.org/abs/1903.00621): distances are in units of the normalizer times the anchor's sides.
    """
    centre = (anchors[:, :2] + anchors[:, 2:]) * 0.5
    size = anchors[:, 2:] - anchors[:, :2]
    factors = _normalizer(coder)
    sides = sides * (factors if isinstance(factors, float) else sides.new_tensor(factors))
    top, bottom, left, right = (sides[..., i] for i in range(4))
    width, height, x, y = size[:, 0], size[:, 1], centre[:, 0], centre[:, 1]
    corners = (x - left * width, y - top * height, x + right * width, y + bottom * height)
    return torch.stack(corners, dim=-1)


def _normalizer(coder: Any) -> float | list[float]:
    value = coder.normalizer
    return float(value) if isinstance(value, (int, float)) else [float(v) for v in value]


def _require_coder(head: Any, *known: str) -> str:
    """The name of the head's box coder, which must be one of the known ones."""
    name = type(head.bbox_coder).__name__
    if name not in known:
        raise UserError(f"{type(head).__name__} with {name} cannot be exported; {' and '.join(known)} can")
    return name


# Head class (or one of its bases) -> reader. The first base in the method resolution order that is listed here counts.
HEADS: dict[str, type[DenseHead]] = {
    "FCOSHead": FCOSReader,
    "FSAFHead": AnchorReader,
    "RetinaHead": AnchorReader,
}


def reader_of(head: Any) -> DenseHead | None:
    """The reader of a head, or None if the head is not supported."""
    names = [base.__name__ for base in type(head).__mro__]
    found = next((HEADS[name] for name in names if name in HEADS), None)
    return found(head) if found else None
