"""Fields of COCO files as tools write them: ids of any kind, numbers as text, boxes that only polygons give.

Evaluators and mmdet need whole numbers that a double can hold for ids, text for class names, and 0 or 1 for flags.
Whatever has one meaning is read as that and counted; the rest is left to :mod:`fcos_train.data.clean`, which drops it
and counts it, or is an error.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from fcos_train.data.spec import FaultLog
from mmcv_overrides.errors import UserError
from mmcv_overrides.json_values import Id, IdLinks, flag, is_plain, number, numbered, plain_id
from mmcv_overrides.printable import printable
from mmcv_overrides.regular_files import is_number

MAX_RLE_SIDE = 2**31  # px
_SEPARATORS = re.compile(r"[\s,;]+")


def read_fields(data: dict, path: Path, log: FaultLog) -> None:
    """Bring ids, class names, boxes, areas and flags of a COCO dict into the form that COCO defines, in place.

    Args:
        data: the three lists, whose entries have the required keys and usable ids.
        path: the file, for messages.
        log: counts what was changed.

    Raises:
        UserError: annotations are of a category without a name.
    """
    parts = {reference: _Numbering(data[key], log, kind) for reference, (key, kind) in _REFERENCES.items()}
    names = {image["id"]: image["file_name"] for image in data["images"]}
    for annotation in data["annotations"]:  # there may be millions: what is in order is only looked at
        for reference, entries in parts.items():
            value = annotation.get(reference)
            if type(value) is not int or value not in entries.unchanged:
                annotation[reference] = entries.refer(value, log)
        if type(annotation.get("id", 0)) is not int:
            annotation["id"] = plain_id(annotation["id"])
        _read_values(annotation, names, log)
    _name_categories(data, path, log)


_REFERENCES = {"image_id": ("images", "image_ids"), "category_id": ("categories", "category_ids")}


class _Numbering:
    """Whole numbers for the ids of a list, and for what refers to them.

    Attributes:
        unchanged: ids that were numbers and stay, so that detections can be compared with those of other programs.
    """

    def __init__(self, entries: list[dict], log: FaultLog, kind: str) -> None:
        ids = [plain_id(entry["id"]) for entry in entries]
        known: list[Id] = [value for value in ids if value is not None]
        names = [str(entry.get("file_name", entry.get("name"))) for entry in entries]
        times = Counter(names)
        self._links = IdLinks(known)
        self._numbers = numbered(known)
        self._by_name = {name: value for name, value in zip(names, known, strict=True) if times[name] == 1}
        self.unchanged = {number for value, number in self._numbers.items() if value == number}
        for entry, value, name in zip(entries, known, names, strict=True):
            if not is_plain(entry["id"]):
                log.add(kind, f"{shown(entry['id'])} of {name}")
            entry["id"] = self._numbers[value]

    def refer(self, reference: object, log: FaultLog) -> Id:
        """The number of the entry of this id or name; if there is none, its JSON text, which is no id."""
        found = self._links.find(reference)
        if found is None and isinstance(reference, str):
            found = self._by_name.get(reference)
        if found is None:
            return shown(reference)
        if found != plain_id(reference):
            log.add("linked_ids", f"{shown(reference)} and {shown(found)}")
        return self._numbers[found]


def _read_values(annotation: dict, names: dict[Id, str], log: FaultLog) -> None:
    """Read box, area and flags of an annotation; ``names`` has the file of each image, for the log."""
    for key, read in _VALUES.items():
        value = annotation.get(key)
        if (type(value) is str or key == "bbox") and (new := read(value)) is not value:
            log.add("as_text", f"{key} {shown(value)} in {names.get(annotation['image_id'], 'an unknown image')}")
            annotation[key] = new
    if _is_absent(annotation.get("bbox")):
        box = extent(annotation.get("segmentation"))
        if box is not None:
            annotation["bbox"] = box
            log.add("from_polygon", names.get(annotation["image_id"], ""))


def _flag(value: object) -> object:
    """The flag that a text spells; other values as they are."""
    read = flag(value)
    return value if read is None else read


def _box(value: object) -> object:
    """A box whose numbers are text, or that is itself text, as numbers; other values as they are."""
    if isinstance(value, str):
        parts: list = _SEPARATORS.split(value.strip(" \t\r\n[]()"))
    elif isinstance(value, list) and len(value) == 4 and str in map(type, value):
        parts = value
    else:
        return value
    numbers = [number(part) for part in parts]
    return numbers if len(numbers) == 4 and all(map(is_number, numbers)) else value


_VALUES = {"bbox": _box, "area": number, "iscrowd": _flag, "ignore": _flag}


def _is_absent(box: object) -> bool:
    return box is None or box == [] or (isinstance(box, list) and len(box) == 4 and not any(box))


def extent(segmentation: object) -> list[float] | None:
    """The box (x, y, w, h) in px around polygons or a run-length encoded mask; None if there are no points in it."""
    if isinstance(segmentation, dict):
        return _extent_of_mask(segmentation)
    try:
        values = list(_flat(segmentation))
    except ValueError:
        return None
    if len(values) < 6 or len(values) % 2:
        return None
    xs, ys = values[::2], values[1::2]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def _flat(value: object, depth: int = 3) -> Iterator[float]:
    """The numbers of x1, y1, x2, ...; of a list of such polygons; or of lists of points."""
    if not isinstance(value, list) or not depth:
        raise ValueError("not a list of numbers")
    for part in map(number, value):
        if isinstance(part, (int, float)) and is_number(part):
            yield part
        else:
            yield from _flat(part, depth - 1)


def _extent_of_mask(mask: dict) -> list[float] | None:
    from pycocotools import mask as coder

    size, counts = mask.get("size"), mask.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(is_plain(n) and 0 < n < MAX_RLE_SIDE for n in size):
        return None
    if isinstance(counts, list):
        if not all(is_plain(run) and run < 2**32 for run in counts):
            return None
        return _extent_of_runs(counts, size[0])
    if not isinstance(counts, str) or not counts.isascii():
        return None
    box = [float(side) for side in coder.toBbox({"size": size, "counts": counts.encode()})]
    return box if box[2] > 0 and box[3] > 0 else None


def _extent_of_runs(counts: Iterable[int], height: int) -> list[float] | None:
    """The box of a mask given as lengths of runs of 0 and 1 in turn, column by column."""
    place, columns, rows = 0, [], []
    for index, run in enumerate(counts):
        if index % 2 and run:
            first, last = place, place + run - 1
            columns += [first // height, last // height]
            rows += [first % height, last % height] if first // height == last // height else [0, height - 1]
        place += run
    if not columns:
        return None
    x, y = float(min(columns)), float(min(rows))
    return [x, y, max(columns) - x + 1, max(rows) - y + 1]


def _name_categories(data: dict, path: Path, log: FaultLog) -> None:
    """Numbers become text; categories without name and annotations are left out."""
    boxes = Counter(annotation["category_id"] for annotation in data["annotations"])
    kept = []
    for index, category in enumerate(data["categories"]):
        name = category["name"]
        if isinstance(name, (int, float)):
            log.add("number_names", shown(name))
            category["name"] = name = shown(name)
        if name is not None and name.strip():
            kept.append(category)
        elif boxes[category["id"]]:
            raise UserError(
                f"{path}: the name of categories[{index}] (id {category['id']}) is {shown(name)}, but "
                f"{boxes[category['id']]} annotations are of it; give it a name"
            )
        else:
            log.add("unnamed_categories", f"id {category['id']}")
    data["categories"] = kept


def shown(value: object) -> str:
    """A value as JSON writes it, printable and short: text has quotation marks, so that "1" differs from 1."""
    return printable(json.dumps(value, ensure_ascii=False))[:80]
