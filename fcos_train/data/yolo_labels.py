"""One label file of YOLO: a line for each object, of its class index and numbers from 0 to 1.

A line has the centre, width and height of a box, as fractions of the width and height of the image; or the corners of a
polygon, x and y in turn, whose box is taken. A sixth number is the confidence that prediction tools write. Lines of
poses have the keypoints behind the box.
"""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

from fcos_train.data.spec import FaultLog
from mmcv_overrides.regular_files import read_regular
from mmcv_overrides.text_encoding import decode_text

MAX_LABELS = 64 << 20  # bytes of one image's labels
SLACK = 0.01  # by which a number may exceed 1 or be below 0: rounded, or drawn a little beyond the border
FAR = 1.5  # numbers above this are no fractions, however careless
FAULTS = (OSError, ValueError)  # what reading a file may raise: special or too large files, an unknown encoding

Box = tuple[float, float, float, float]  # x1, y1, x2, y2 as fractions


@dataclass
class Tally:
    """Lines of a split that hold numbers, and those with numbers far above 1."""

    lines: int = 0
    far: int = 0


def read_labels(
    path: Path, shown: str, classes: Container[int], keypoints: int, log: FaultLog, tally: Tally
) -> list[tuple[int, Box]]:
    """The objects of a label file in its order: class index and box.

    Args:
        path: the file. shown: its name in messages.
        classes: the class indices that there are.
        keypoints: numbers that follow a box.
        log: counts the lines that are left out, with file and line.
        tally: counts lines.

    Raises:
        one of FAULTS: it is not regular, too large, or of an uncertain encoding.
    """
    text, encoding = decode_text(read_regular(path, MAX_LABELS))
    if encoding not in ("utf-8", "utf-8-sig"):
        log.add("encoding", f"{shown}: {encoding}")
    found: dict[tuple[int, tuple[float, ...]], Box] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        where = f"{shown}:{number}: {line.strip()}"
        values = _numbers(words)
        if values is None:
            log.add("label_numbers", where)
            continue
        index, *rest = values
        numbers = _meant(rest, keypoints)
        if numbers is None:
            log.add("label_columns", where)
            continue
        tally.lines += 1
        tally.far += max(numbers) > FAR
        box = _box(numbers)
        if index not in classes:
            log.add("label_class", where)
        elif min(numbers) < -SLACK or max(numbers) > 1 + SLACK or box[2] <= box[0] or box[3] <= box[1]:
            log.add("label_range", where)
        elif (int(index), tuple(rest)) in found:
            log.add("label_twice", where)
        else:
            found[int(index), tuple(rest)] = box
            if len(numbers) > 4:
                log.add("from_polygon", f"{shown}:{number}")
            elif len(rest) == 5 and not keypoints:
                log.add("label_extra", where)
    return [(index, box) for (index, _), box in found.items()]


def _numbers(words: list[str]) -> list[float] | None:
    """All words of a line as finite numbers, else None."""
    try:
        values = list(map(float, words))
    except ValueError:
        return None
    return values if all(map(math.isfinite, values)) else None


def _meant(numbers: list[float], keypoints: int) -> list[float] | None:
    """The four numbers of a box, or those of a polygon; None for another count."""
    count = len(numbers)
    if count in (4, 5) or keypoints and count == 4 + keypoints:
        return numbers[:4]
    return numbers if count >= 6 and count % 2 == 0 else None


def _box(numbers: list[float]) -> Box:
    if len(numbers) > 4:
        xs, ys = numbers[::2], numbers[1::2]
        return min(xs), min(ys), max(xs), max(ys)
    x, y, w, h = numbers
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2
