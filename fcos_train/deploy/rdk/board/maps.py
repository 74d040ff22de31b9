"""The outputs of a model found by their shapes, and decoded to boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...decoder import Boxes, Decoder, DecodeRule
from .nv12 import BoardError

NO_LIMIT = 2**31  # more candidates and boxes than any map has points


@dataclass(frozen=True)
class Map:
    """An output of a model.

    Attributes:
        name: for messages.
        shape: (1, h, w, channels).
        scales: f32, one per channel, of integer values; None for floats.
    """

    name: str
    shape: tuple[int, ...]
    scales: np.ndarray | None = None


@dataclass(frozen=True)
class Head:
    """What must be known of a head to decode its maps.

    Attributes:
        classes: number of classes.
        strides: of the levels.
        in_strides: distances are in strides (models for the X5), else in pixels (the vendor's models for the X3).
        score, iou: thresholds on scores (boxes at the threshold are kept) and on the overlap of boxes of any class.
    """

    classes: int
    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    in_strides: bool = True
    score: float = 0.5
    iou: float = 0.6


class MapDecoder:
    """Finds the maps of each level among the outputs of a model and decodes them.

    Only points above the threshold are converted to floats.

    Args:
        head: what the maps mean. outputs: of the model, in its order. height, width: of its input.

    Raises:
        BoardError: no output has the shape of a map, or two have.
    """

    def __init__(self, head: Head, outputs: Sequence[Map], height: int, width: int) -> None:
        self._size = height, width
        self._outputs = list(outputs)
        shapes = [tuple(output.shape) for output in outputs]
        self._places = [
            [_only(shapes, self._outputs, (1, -(-height // s), -(-width // s), c), what, head) for s in head.strides]
            for c, what in ((head.classes, "classes"), (4, "distances"), (1, "centerness"))
        ]
        used = [place for places in self._places for place in places]
        self._scaled = all(self._outputs[place].scales is not None for place in used)
        self._decoder = Decoder(
            DecodeRule(
                strides=tuple(head.strides),
                stride_units=head.in_strides,
                sqrt=True,
                threshold_on="score",
                rank_by="score",
                best_class_only=True,
                score_thr=float(np.nextafter(np.float32(head.score), np.float32(0))),  # a score of `score` counts
                nms_pre=0,
                iou_thr=head.iou,
                class_agnostic=True,
                max_per_img=NO_LIMIT,
                layout="NHWC",
            )
        )

    def __call__(self, maps: Sequence[np.ndarray]) -> Boxes:
        """Boxes in pixels of the input, the highest score first.

        Args:
            maps: the outputs of the model in its order, int32 or float32 [1, h, w, channels].
        """
        cls, box, ctr = ([self._value(place, maps[place]) for place in places] for places in self._places)
        scales = None
        if self._scaled:
            scales = [[self._outputs[place].scales for place in level] for level in zip(*self._places)]
        return self._decoder(cls, box, ctr, self._size, scales)

    def _value(self, place: int, values: np.ndarray) -> np.ndarray:
        """A map in the form that the decoder takes: all integer, or all float."""
        output = self._outputs[place]
        values = np.asarray(values).reshape(output.shape)
        if self._scaled or output.scales is None:
            return values
        return values.astype(np.float32) * output.scales


def _only(
    shapes: Sequence[tuple[int, ...]], outputs: Sequence[Map], wanted: tuple[int, ...], what: str, head: Head
) -> int:
    """Index of the one output of this shape."""
    found = [index for index, shape in enumerate(shapes) if shape == wanted]
    if len(found) == 1:
        return found[0]
    if len(found) > 1:
        names = " and ".join(outputs[index].name for index in found)
        raise BoardError(f"the outputs {names} have the same shape {_text(wanted)}: {what} cannot be told from others")
    there = ", ".join(f"{output.name} {_text(shape)}" for output, shape in zip(outputs, shapes))
    raise BoardError(
        f"no output has the shape {_text(wanted)} of the {what} for {head.classes} classes and the strides "
        f"{','.join(map(str, head.strides))}; the model has {there} (see --classes-num and --strides)"
    )


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
