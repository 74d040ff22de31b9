"""Finds the logits that can pass the threshold, with one comparison each, in float and in integer maps.

Nearly all logits are background. What is found may contain a few more than pass, but lacks none of them; the decoder
examines the survivors exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from .arithmetic import nonzero

_ROUNDING = 4e-7  # relative; the float32 product of an integer and its scale is off by at most 1.2e-7
_BUFFER = 8192  # elements; numpy compares shorter rows with a broadcast row at half the speed
_MANY = 64  # from one survivor in so many logits, a second comparison with the bounds of the points is worthwhile


class _Bounds(NamedTuple):
    """Integer bounds, and what they are of."""

    scales: np.ndarray | None = None
    key: tuple = ()
    rows: list[np.ndarray] = []


class Survivors:
    """Search through the class logits of one image. It keeps its buffer between calls.

    Args:
        nchw: whether the maps are [C, H, W]; else [H, W, C].
    """

    def __init__(self, nchw: bool) -> None:
        self._nchw = nchw
        self._buffer = np.zeros(0, bool)
        self._bounds = _Bounds()

    def find(
        self,
        maps: Sequence[np.ndarray],
        scales: np.ndarray | None,
        bound: float,
        bounds_of_points: Callable[[], Sequence[np.ndarray]] | None = None,
    ) -> np.ndarray:
        """Find all logits above the bound.

        Args:
            maps: logits of each level. scales: [levels, C] f32 of integer maps, never changed; or None.
            bound: of all logits.
            bounds_of_points: gives the higher bounds [H, W] of each level; called only if many logits exceed ``bound``.

        Returns:
            ascending flat indices, counted through the maps of all levels; among them every logit above its bound.
            A bound that is rounded to the type of the map has every greater value of that type at or above it.
        """
        total = sum(logits.size for logits in maps)
        if self._buffer.size < total:
            self._buffer = np.zeros(total, bool)
        flags = self._buffer[:total]
        ends = np.cumsum([logits.size for logits in maps]).tolist()
        parts = [flags[end - logits.size : end] for logits, end in zip(maps, ends)]
        if scales is None:
            for logits, part in zip(maps, parts):
                np.greater_equal(logits.reshape(-1), np.asarray(bound, logits.dtype), out=part)
        else:
            for logits, least, part in zip(maps, self._least(maps, scales, bound), parts):
                shape = (len(least), -1) if self._nchw else (-1, least.size)
                np.greater_equal(logits.reshape(shape), least, out=part.reshape(shape))
        found = nonzero(flags)
        if bounds_of_points is None or len(found) * _MANY < total:
            return found
        for level, (logits, of_points, part) in enumerate(zip(maps, bounds_of_points(), parts)):
            row = of_points.astype(logits.dtype) if scales is None else _integers_of_points(of_points, scales[level])
            part = part.reshape(logits.shape)
            np.logical_and(part, logits >= row[(None,) if self._nchw else (..., None)], out=part)
        return nonzero(flags)

    def _least(self, maps: Sequence[np.ndarray], scales: np.ndarray, bound: float) -> list[np.ndarray]:
        """Return for each level the least integers that can exceed the bound, for rows of the map; kept for next time.

        For NCHW [C, 1], a row is a channel; for NHWC [points * C], a row is one or more of the image.
        """
        planes = [logits.shape[:2] for logits in maps]
        if self._bounds.scales is not scales or self._bounds.key != (bound, planes):
            least = _integers(bound / np.maximum(scales, _TINY))
            points = [_points_of_row(height, width, least.shape[1]) for height, width in planes]
            rows = [row[:, None] if self._nchw else np.tile(row, count) for row, count in zip(least, points)]
            self._bounds = _Bounds(scales, (bound, planes), rows)
        return self._bounds.rows


def _points_of_row(height: int, width: int, channels: int) -> int:
    """Return the points of a row for the comparison: those of as few whole image rows as fill numpy's buffer."""
    rows = (n for n in range(1, height + 1) if height % n == 0 and n * width * channels >= _BUFFER)
    return next(rows, height) * width


_TINY = np.float64(np.finfo(np.float32).tiny)  # in place of a scale of 0, whose bound is infinite


def _integers(bound: np.ndarray) -> np.ndarray:
    """Return the greatest integers that are surely not above the bounds, within the range of int32."""
    bound = np.clip(bound, -(2.0**40), 2.0**40)  # finite
    return np.clip(np.floor(bound - abs(bound) * _ROUNDING), -(2**31), 2**31 - 1).astype(np.int32)


def _integers_of_points(bound: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return for bounds [H, W] the greatest integers that are surely not above them with any of the scales [C]."""
    low, high = np.maximum([scales.min(), scales.max()], _TINY)
    return _integers(np.minimum(bound / low, bound / high))
