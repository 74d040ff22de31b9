"""Integer maps and their scales (value = integer x scale of its channel), and float maps, which have none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .arithmetic import sigmoid

INTEGERS = {np.dtype(kind) for kind in ("int8", "int16", "int32")}

Scales = np.ndarray | None  # of one kind of maps: [levels, channels] f32, or None for float maps


class DecoderError(ValueError):
    """An invalid rule, or maps that do not fit the rule."""


class Centerness:
    """The centerness of all points; logits become probabilities where they are asked for.

    Args:
        maps: logits of each level, one per point. scales: of integer maps.
    """

    def __init__(self, maps: Sequence[np.ndarray], scales: Scales) -> None:
        self._logits = np.concatenate([m.reshape(-1) for m in maps])
        self._sizes = [m.size for m in maps]
        self._scales = scales

    def at(self, place: np.ndarray, level: np.ndarray) -> np.ndarray:
        """Return the probabilities [K] f32 at the points ``place`` [K] of the levels ``level`` [K]."""
        return sigmoid(scaled(self._logits[place], self._scales, level, 0))

    def everywhere(self) -> np.ndarray:
        """Return the probabilities [P] f32 of all points."""
        level = np.repeat(np.arange(len(self._sizes)), self._sizes)
        return sigmoid(scaled(self._logits, self._scales, level, 0))


def scaled(raw: np.ndarray, scales: Scales, level: np.ndarray, channel: np.ndarray | int) -> np.ndarray:
    """Return the float values [K] of the map values ``raw`` [K], of their levels and channels."""
    values = raw.astype(np.float32, copy=False)
    return values if scales is None else values * scales[level, channel]


class ScaleTables:
    """Checks the scales of each call. Those of a model do not change, so tables that were checked are kept.

    Args:
        axis: of the channels in the maps.
    """

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._key: tuple | None = None
        self._tables: list[Scales] = []

    def of(
        self, given: Sequence[Sequence[np.ndarray]], scales: Sequence[Sequence[np.ndarray]] | None
    ) -> Sequence[Scales]:
        """Return the scales [levels, channels] of each kind of maps.

        Args:
            given: maps of each kind and level.
            scales: of each level and kind, one per channel or one for all channels; None for float maps.

        Raises:
            DecoderError: scales of another number, negative or not finite; integer maps without, or float maps with.
        """
        kinds = {m.dtype for maps in given for m in maps}
        if scales is None:
            if any(kind.kind != "f" for kind in kinds):
                raise DecoderError(f"decoder: maps of {_names(kinds)} need scales (value = integer x scale)")
            return [None] * len(given)
        if not kinds <= INTEGERS:
            raise DecoderError(f"decoder: scales belong to maps of int8, int16 or int32; these are {_names(kinds)}")
        channels = [maps[0].shape[self._axis] for maps in given]
        flat = [np.asarray(x, np.float32) for row in scales for x in row]
        counts, lengths = [len(row) for row in scales], [x.size for x in flat]
        key = (counts, lengths, channels, b"".join([x.tobytes() for x in flat]))
        if key != self._key:
            wanted = channels * len(given[0])
            if counts != [len(given)] * len(given[0]) or any(n not in (1, c) for n, c in zip(lengths, wanted)):
                raise DecoderError(
                    f"decoder: scales of lengths {lengths}; {len(given[0])} levels with maps of {channels} channels "
                    "need one scale per channel, or one for all, level by level"
                )
            self._tables = [_table(flat[kind :: len(given)], count) for kind, count in enumerate(channels)]
            self._key = key
        return self._tables


def _names(kinds: set[np.dtype]) -> str:
    return ", ".join(sorted(kind.name for kind in kinds))


def _table(rows: Sequence[np.ndarray], channels: int) -> np.ndarray:
    """Return the scales [levels, channels] f32 of one kind of maps."""
    table = np.stack([np.broadcast_to(row.reshape(-1), channels) for row in rows])
    if not (table.min() >= 0 and table.max() < np.inf):
        raise DecoderError("decoder: a scale is negative or not finite")
    return table
