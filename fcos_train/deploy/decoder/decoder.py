"""Post-processing for every runtime: the raw output maps of a dense detector to boxes, with numpy only.

Almost all scores (436,480 for 512 x 512 pixels and 80 classes) are background, so the steps avoid work on them:

1. Logits are compared with the logit of the threshold; the sigmoid is computed for the survivors only.
2. The survivors of all levels are scored and sorted together, once.
3. In that order, in blocks, they are decoded and suppressed until ``max_per_img`` boxes are kept. A kept box is never
   removed by a lower-scoring one, so candidates below the last kept box need no decoding.

The result equals that of the plain definition, mmdet's ``predict_by_feat``. Equal scores are ordered by (level, point,
class), independently of the layout of the maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

# Relative: this folder also runs as a copy, under another name and without the rest of the product.
from .arithmetic import from_delta, from_tblr, greedy, largest_of_levels, logit, sigmoid
from .quantised import Centerness, DecoderError, Scales, ScaleTables, scaled
from .survivors import Survivors

KINDS = ("distance", "delta", "tblr")
BLOCK = 256  # candidates decoded and suppressed at once: bounds the number of pairs when one class has many boxes


@dataclass(frozen=True)
class DecodeRule:
    """How the maps of one detector become boxes. The defaults are those of mmdet's FCOS.

    Args:
        strides: distance between neighbouring points in pixels, for each level.
        kind: meaning of the four box channels. ``distance``: distances of the point to the left, top, right and
            bottom side (FCOS). ``delta``: dx, dy, dw, dh relative to an anchor (RetinaNet). ``tblr``: distances of
            the anchor's centre to the top, bottom, left and right side, in units of its height and width (FSAF).
        exp: whether the exponential must still be applied to the distances.
        stride_units: whether distances are in strides instead of pixels.
        offset: position of the first point, in strides (``distance``).
        anchors: for each level the base anchors [A, 4] around the origin, in pixels (``delta``, ``tblr``).
        means, stds: normalisation of the deltas. wh_ratio_clip: mmdet's bound of dw and dh.
        normalizer: normalisation of ``tblr``, one factor or four.
        sqrt: the score is the square root of class probability x centerness (AdelaiDet, RDK) instead of the product.
        threshold_on: ``cls``: the class probability must exceed ``score_thr`` (mmdet >= 2.11, AdelaiDet);
            ``score``: the final score must exceed it (mmdet 2.6 to 2.8, RDK). The same for heads without centerness.
        rank_by: which score selects the ``nms_pre`` candidates, ``cls`` (mmdet) or ``score`` (AdelaiDet).
        best_class_only: each point yields at most one candidate, of its best class (RDK).
        score_thr: threshold on scores, 0 to 1.
        nms_pre: maximum number of candidates per level; 0 or less for no limit.
        iou_thr: a box is suppressed when its IoU with a better box exceeds this.
        class_agnostic: boxes of different classes suppress one another.
        iou_extra: 1 for box sizes counted as ``x2 - x1 + 1`` (ncnn example), else 0.
        min_size: minimum width and height of a box in pixels (exclusive); negative for no minimum (mmdet's
            ``min_bbox_size``).
        max_per_img: maximum number of boxes of an image.
        layout: ``NCHW`` or ``NHWC``.

    Raises:
        DecoderError: an invalid value, or a missing set of anchors.
    """

    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    kind: str = "distance"
    exp: bool = False
    stride_units: bool = False
    offset: float = 0.5
    anchors: tuple[np.ndarray, ...] = ()
    means: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    stds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    wh_ratio_clip: float = 16 / 1000
    normalizer: float | tuple[float, ...] = 4.0
    sqrt: bool = False
    threshold_on: str = "cls"
    rank_by: str = "cls"
    best_class_only: bool = False
    score_thr: float = 0.05
    nms_pre: int = 1000
    iou_thr: float = 0.5
    class_agnostic: bool = False
    iou_extra: int = 0
    min_size: float = -1
    max_per_img: int = 100
    layout: str = "NCHW"

    def __post_init__(self) -> None:
        for name, legal in (
            ("kind", KINDS),
            ("threshold_on", ("cls", "score")),
            ("rank_by", ("cls", "score")),
            ("layout", ("NCHW", "NHWC")),
            ("iou_extra", (0, 1)),
        ):
            if getattr(self, name) not in legal:
                raise DecoderError(f"decoder: {name} is {getattr(self, name)!r}; it must be one of {legal}")
        if self.kind != "distance" and len(self.anchors) != len(self.strides):
            raise DecoderError(
                f"decoder: kind {self.kind!r} needs base anchors for {len(self.strides)} levels, "
                f"got {len(self.anchors)}"
            )


class Boxes(NamedTuple):
    """Detections of one image, highest score first."""

    boxes: np.ndarray  # [N, 4] f32, x1 y1 x2 y2 in pixels of the network input
    scores: np.ndarray  # [N] f32
    labels: np.ndarray  # [N] int64


class _Found(NamedTuple):
    """Candidates of all levels, ordered by (point, anchor, class); each field is [K]."""

    place: np.ndarray  # index of the point: level by level, row by row
    anchor: np.ndarray
    label: np.ndarray
    score: np.ndarray
    level: np.ndarray


class Decoder:
    """Post-processing of one model. It keeps buffers between calls: use one object per thread.

    Args:
        rule: how the maps become boxes.

    Raises:
        DecoderError: levels with different numbers of anchors.
    """

    def __init__(self, rule: DecodeRule) -> None:
        self.rule = rule
        self._base = [np.asarray(a, np.float32).reshape(-1, 4) for a in rule.anchors]
        self._anchors = len(self._base[0]) if self._base else 1
        if any(len(base) != self._anchors for base in self._base):
            raise DecoderError(f"decoder: levels differ in their number of anchors: {[len(b) for b in self._base]}")
        self._nchw = rule.layout == "NCHW"
        self._survivors = Survivors(self._nchw)
        self._scales = ScaleTables(axis=0 if self._nchw else 2)
        # The class probability, or the product of class probability and centerness, must exceed:
        self._need = np.asarray(rule.score_thr, np.float64) ** (2 if rule.sqrt else 1)
        self._bound = float(logit(np.asarray(rule.score_thr, np.float64)))
        self._bound_of_product = float(logit(self._need))
        self._shapes: list[list[tuple[int, ...]]] = []
        self._planes: tuple[tuple[int, ...], ...] = ()

    def __call__(
        self,
        cls: Sequence[np.ndarray],
        box: Sequence[np.ndarray],
        centerness: Sequence[np.ndarray] | None = None,
        image_size: tuple[int, int] | None = None,
        scales: Sequence[Sequence[np.ndarray]] | None = None,
    ) -> Boxes:
        """Compute the boxes of one image.

        Args:
            cls: for each level the class logits, [A*C, H, W] or [H, W, A*C] f32, optionally with a batch axis of 1.
            box: for each level the box channels, with 4*A instead of A*C channels.
            centerness: for each level the centerness logits (one channel); None for a model without centerness.
            image_size: (height, width) in pixels to which the boxes are clipped, or None.
            scales: for quantised (int32) maps: for each level one array per map, with value = map * scale and one
                scale per channel. Logits are compared as integers; only the survivors are converted to floats.

        Raises:
            DecoderError: the maps do not fit one another or the rule.
        """
        given = self._checked([maps for maps in (cls, box, centerness) if maps is not None])
        cls_scale, box_scale, *factor_scale = self._scales.of(given, scales)
        factor = None if centerness is None else Centerness(given[2], factor_scale[0])
        found = self._candidates(given[0], cls_scale, factor)
        order = np.argsort(-found.score, kind="stable")
        if self.rule.best_class_only:
            point = found.place * self._anchors + found.anchor  # ascending
            if (point[1:] == point[:-1]).any():
                order = order[np.sort(np.unique(point[order], return_index=True)[1])]
        found = _Found(*(column[order] for column in found))
        return self._suppress(found, self._box_rows(given[1]), box_scale, image_size)

    def _checked(self, maps: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
        """Remove the batch axis of classes, boxes and centerness, check their shapes, and set the priors."""
        given = [[x[0] if x.ndim == 4 and len(x) == 1 else x for x in m] for m in maps]
        shapes = [[x.shape for x in m] for m in given]
        if shapes == self._shapes:
            return given
        levels = len(self.rule.strides)
        axis, plane = (0, slice(1, 3)) if self._nchw else (2, slice(0, 2))
        if any(len(m) != levels for m in given):
            raise DecoderError(f"decoder: the rule has {levels} levels, the maps have {[len(m) for m in given]}")
        planes = tuple(x.shape[plane] for x in given[0])
        sound = all(x.ndim == 3 and x.shape[plane] == p for m in given for x, p in zip(m, planes))
        widths = [{x.shape[axis] for x in m if x.ndim == 3} for m in given]
        sound = sound and all(len(w) == 1 for w in widths)
        if not sound or min(widths[0]) % self._anchors or widths[1:] != [{4 * self._anchors}, {1}][: len(given) - 1]:
            raise DecoderError(
                f"decoder: layout {self.rule.layout}, {self._anchors} anchor(s) at a point: these shapes are not those "
                f"of one image's classes, boxes and centerness: {shapes}"
            )
        if planes != self._planes:
            self._set_priors(planes)
        self._shapes = shapes
        return given

    def _set_priors(self, planes: tuple[tuple[int, ...], ...]) -> None:
        """Compute centres [P, 2] and strides [P, 1], or anchors [P * A, 4], for maps of these (height, width)."""
        corners = []
        for (height, width), stride in zip(planes, self.rule.strides):
            y, x = np.mgrid[:height, :width].astype(np.float32)
            offset = np.float32(self.rule.offset if self.rule.kind == "distance" else 0)
            corners.append((np.stack((x.reshape(-1), y.reshape(-1)), 1) + offset) * np.float32(stride))
        sizes = [len(c) for c in corners]
        self._ends = np.cumsum(sizes)
        self._strides = np.repeat(np.array(self.rule.strides, np.float32), sizes)[:, None]
        if self.rule.kind == "distance":
            self._priors = np.concatenate(corners)
        else:
            anchors = [np.tile(c, 2)[:, None] + base for c, base in zip(corners, self._base)]
            self._priors = np.concatenate(anchors).reshape(-1, 4)
        self._planes = planes

    def _candidates(self, cls: list[np.ndarray], scales: Scales, factor: Centerness | None) -> _Found:
        """Return the candidates that pass the threshold and ``nms_pre``."""
        rule = self.rule
        place, channel, level, value = self._survivors_of(cls, scales, factor)
        anchor, label = np.zeros_like(channel), channel
        if self._anchors > 1:
            anchor, label = np.divmod(channel, cls[0].shape[0 if self._nchw else 2] // self._anchors)
        prob = score = sigmoid(value)
        if factor is not None:
            score = prob * factor.at(place, level)
            score = np.sqrt(score) if rule.sqrt else score
        kept = np.flatnonzero((prob if rule.threshold_on == "cls" else score) > np.float32(rule.score_thr))
        if 0 < rule.nms_pre < len(kept):
            kept = largest_of_levels(kept, level, prob if rule.rank_by == "cls" else score, rule.nms_pre)
        return _Found(place[kept], anchor[kept], label[kept], score[kept], level[kept])

    def _survivors_of(
        self, cls: list[np.ndarray], scales: Scales, factor: Centerness | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return place, channel, level and logit f32 [K] of all logits that can pass the threshold."""
        channels = cls[0].shape[0 if self._nchw else 2]
        hits = self._hits(cls, scales, factor)
        ends = self._ends * channels
        cuts = [0, *hits.searchsorted(ends).tolist()]
        level = np.repeat(np.arange(len(cls)), [b - a for a, b in zip(cuts, cuts[1:])])
        starts = [0, *ends.tolist()]
        values, channel_of, place_of = [np.zeros(0, np.float32)], [hits[:0]], [hits[:0]]
        for m, start, a, b in zip(cls, starts, cuts, cuts[1:]):
            if a < b:
                own = hits[a:b] - start
                values.append(m.reshape(-1)[own])
                if self._nchw:
                    points = m.size // channels
                    channel_of.append(own // points)  # much faster than divmod
                    place_of.append(own - channel_of[-1] * points + start // channels)
        value = np.concatenate(values[1:] or values)
        if self._nchw:
            place, channel = np.concatenate(place_of), np.concatenate(channel_of)
            order = np.argsort(place * channels + channel)
            place, channel, level, value = place[order], channel[order], level[order], value[order]
        else:
            place = hits // channels
            channel = hits - place * channels
        return place, channel, level, scaled(value, scales, level, channel)

    def _hits(self, cls: list[np.ndarray], scales: Scales, factor: Centerness | None) -> np.ndarray:
        """Return the flat indices, through all levels, of the logits that can pass the threshold."""
        rule = self.rule
        if rule.score_thr <= 0:
            return np.arange(sum(m.size for m in cls))
        if factor is None or rule.threshold_on == "cls":
            return self._survivors.find(cls, scales, self._bound)
        # The centerness is at most 1: no logit below this bound passes, whatever its point.
        return self._survivors.find(cls, scales, self._bound_of_product, partial(self._bounds_of_points, factor))

    def _bounds_of_points(self, factor: Centerness) -> list[np.ndarray]:
        """Return for each level the bound [H, W] of the logits, given the centerness of each point."""
        bounds = logit(self._need / np.maximum(factor.everywhere(), 1e-30, dtype=np.float64))
        return [part.reshape(plane) for part, plane in zip(np.split(bounds, self._ends[:-1]), self._planes)]

    def _box_rows(self, box: list[np.ndarray]) -> np.ndarray:
        """Concatenate the box channels of all levels: [A, 4, P] or, for NHWC, [P, A, 4]."""
        if self.rule.layout == "NCHW":
            return np.concatenate([b.reshape(len(b), -1) for b in box], 1).reshape(self._anchors, 4, -1)
        return np.concatenate([b.reshape(-1, b.shape[2]) for b in box]).reshape(-1, self._anchors, 4)

    def _suppress(self, found: _Found, box: np.ndarray, box_scale: Scales, image_size: tuple[int, int] | None) -> Boxes:
        """Decode and suppress sorted candidates block by block until ``max_per_img`` boxes are kept."""
        rule = self.rule
        boxes: np.ndarray = np.zeros((0, 4), np.float32)
        kept: np.ndarray = np.zeros(0, np.int64)
        for start in range(0, len(found.score), BLOCK):
            rows: np.ndarray = np.arange(start, min(start + BLOCK, len(found.score)))
            new = self._decode(found, rows, box, box_scale, image_size)
            if rule.min_size >= 0:
                large = np.flatnonzero((new[:, 2:] - new[:, :2] > rule.min_size).all(1))
                new, rows = new[large], rows[large]
            boxes, kept = np.concatenate((boxes, new)), np.concatenate((kept, rows))
            group = None if rule.class_agnostic else found.label[kept]
            left = greedy(boxes, group, rule.iou_thr, rule.iou_extra)
            boxes, kept = boxes[left], kept[left]
            if len(boxes) >= rule.max_per_img:
                break
        kept = kept[: rule.max_per_img]
        return Boxes(boxes[: rule.max_per_img], found.score[kept], found.label[kept])

    def _decode(
        self, found: _Found, rows: np.ndarray, box: np.ndarray, scales: Scales, image_size: tuple[int, int] | None
    ) -> np.ndarray:
        """Decode the candidates ``rows`` [K] to boxes [K, 4] f32, clipped to the image."""
        rule, place, anchor = self.rule, found.place[rows], found.anchor[rows]
        raw = box[anchor, :, place] if self._nchw else box[place, anchor]
        raw = raw.astype(np.float32, copy=False)
        if scales is not None:
            raw = raw * scales.reshape(len(scales), -1, 4)[found.level[rows], anchor]
        if rule.kind == "distance":
            raw = np.exp(raw) if rule.exp else raw
            raw = raw * self._strides[place] if rule.stride_units else raw
            centre = self._priors[place]
            out = np.concatenate((centre - raw[:, :2], centre + raw[:, 2:]), 1)
        else:
            prior = self._priors[place * self._anchors + anchor]
            if rule.kind == "delta":
                out = from_delta(prior, raw, rule.means, rule.stds, rule.wh_ratio_clip)
            else:
                out = from_tblr(prior, raw, rule.normalizer)
        if image_size is not None:
            bound = np.array([image_size[1], image_size[0]] * 2, np.float32)
            np.minimum(np.maximum(out, 0, out=out), bound, out=out)
        return out
