"""Values of JSON files as tools write them: ids of any kind, numbers and flags as text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

Id = int | float | str

MAX_ID = 2**53  # ids pass through double precision in evaluators; above it, neighbours are equal
_WHOLE = re.compile(r"\s*([+-]?\d{1,40})(?:\.0*)?\s*", re.ASCII)
_NUMBER = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?\s*", re.ASCII)
_FLAGS = {"true": 1, "false": 0}


def plain_id(value: object) -> Id | None:
    """An id with whole floats as int; None for what cannot identify an entry (null, a list, NaN)."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return int(value) if value.is_integer() else value
    if isinstance(value, int):
        return int(value)
    return value if isinstance(value, str) else None


def whole_number(value: Id) -> int | None:
    """The whole number that an id stands for: 7 for 7, "7", "007" and "7.0"; None if it is not one."""
    if isinstance(value, str):
        match = _WHOLE.fullmatch(value)
        return int(match[1]) if match else None
    return value if isinstance(value, int) else None


def same_id(value: object) -> Id | None:
    """What all spellings of an id share: the number of 7, 7.0, "7" and "007", else the id; None as in `plain_id`."""
    plain = plain_id(value)
    whole = None if plain is None else whole_number(plain)
    return plain if whole is None else whole


def is_plain(value: object) -> bool:
    """Whether an id is a whole number that evaluators tell from all others: an int from 0 to 2^53."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_ID


def numbered(ids: Iterable[Id]) -> dict[Id, int]:
    """A number from 0 to 2^53 for each id: the one that it stands for, or, unless all have their own, its position.

    Positions count from 1, in the order in which ids first appear.
    """
    different = list(dict.fromkeys(ids))
    numbers = [whole_number(value) for value in different]
    if all(map(is_plain, numbers)) and len(set(numbers)) == len(numbers):
        return {value: number for value, number in zip(different, numbers, strict=True) if number is not None}
    return {value: position for position, value in enumerate(different, start=1)}


class IdLinks:
    """Finds the entry that a reference means: the one of the same id, else the only one of the same number.

    So the text "1" means image 1 where no image has the text "1" for its id.

    Args:
        ids: the ids of the entries, from :func:`plain_id`.
    """

    def __init__(self, ids: Iterable[Id]) -> None:
        self._ids = set(ids)
        self._by_number: dict[int, set[Id]] = {}
        for value in self._ids:
            number = whole_number(value)
            if number is not None:
                self._by_number.setdefault(number, set()).add(value)

    def find(self, reference: object) -> Id | None:
        """The id of the entry; None if there is none, or several of the same number."""
        value = plain_id(reference)
        if value is None or value in self._ids:
            return value
        number = whole_number(value)
        same = self._by_number.get(number, set()) if number is not None else set()
        return next(iter(same)) if len(same) == 1 else None


def flag(value: object) -> int | None:
    """0 or 1 for a flag: null is 0, a number is 1 unless it is 0, as are "0", "1", "true" and "false"; else None."""
    if value is None:
        return 0
    if isinstance(value, str):
        named = _FLAGS.get(value.strip().lower())
        value = number(value) if named is None else named
    return int(value != 0) if isinstance(value, (int, float)) and value == value else None


def number(value: object) -> object:
    """The number that a text spells, as float or int; any other value, and any other text, as it is."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        return value
    whole = _WHOLE.fullmatch(value)
    return int(whole[1]) if whole else float(value)
