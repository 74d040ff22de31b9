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
        names: of the outputs, level by level of cls, then of box, then of ctr; empty where they are not known.
    """

    classes: int
    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    in_strides: bool = True
    score: float = 0.5
    iou: float = 0.6
    names: tuple[str, ...] = ()


class MapDecoder:
    """Finds the maps of each level among the outputs of a model and decodes them.

    Outputs are told apart by their shapes. Where maps have the same shape (4 classes and 4 distances, 1 class and
    centerness), names decide, else the order, in which all known models have the classes before the rest. Only points
    above the threshold are converted to floats.

    Args:
        head: what the maps mean. outputs: of the model, in its order. height, width: of its input.

    Raises:
        BoardError: no output has the shape of a map, or too many have.
    """

    def __init__(self, head: Head, outputs: Sequence[Map], height: int, width: int) -> None:
        self._size = height, width
        self._outputs = list(outputs)
        self._places = _found(head, self._outputs, height, width)
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


def _found(head: Head, outputs: Sequence[Map], height: int, width: int) -> list[list[int]]:
    """Indices of the outputs with the classes, the distances and the centerness of each level."""
    wanted = [
        (1, -(-height // stride), -(-width // stride), channels)
        for channels in (head.classes, 4, 1)
        for stride in head.strides
    ]
    shapes = [tuple(output.shape) for output in outputs]
    there = [output.name for output in outputs]
    if set(head.names) <= set(there) and len(head.names) == len(wanted):
        named = [there.index(name) for name in head.names]
        if [shapes[place] for place in named] == wanted:
            return _by_part(named, len(head.strides))
    places: list[int] = []
    for index, shape in enumerate(wanted):
        fitting = [place for place, other in enumerate(shapes) if other == shape]
        if len(fitting) != wanted.count(shape):
            raise BoardError(_misfit(head, outputs, shape, len(fitting), wanted.count(shape)))
        places.append(fitting[wanted[:index].count(shape)])
    return _by_part(places, len(head.strides))


def _by_part(places: list[int], levels: int) -> list[list[int]]:
    return [places[start : start + levels] for start in range(0, len(places), levels)]


def _misfit(head: Head, outputs: Sequence[Map], shape: tuple[int, ...], count: int, needed: int) -> str:
    """The message when the outputs are not the maps of the head."""
    there = ", ".join(f"{output.name} {_text(output.shape)}" for output in outputs)
    many = f"{needed} outputs are" if needed > 1 else "one output is"
    return (
        f"{many} needed with the shape {_text(shape)} ({head.classes} classes, strides "
        f"{','.join(map(str, head.strides))}), and {count or 'none'} found; the model has {there} "
        "(see --classes-num and --strides)"
    )


def _text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
