"""Statistics of the boxes of a COCO annotation file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fcos_train.report.evaluation import Unavailable, read_json


@dataclass(frozen=True)
class Labels:
    """The boxes of one split; crowd regions are left out. B boxes, M images.

    Attributes:
        classes: names in the order of the file. per_class: name -> boxes.
        side: [B] square root of the area in px. size: [B, 2] width and height as parts of the image's.
        per_image: [M] boxes of each image.
    """

    classes: tuple[str, ...]
    per_class: dict[str, int]
    side: np.ndarray
    size: np.ndarray
    per_image: np.ndarray


def read_labels(ann_file: Path) -> Labels:
    """Statistics of an annotation file.

    Raises:
        Unavailable: it cannot be read, or is not in COCO form.
    """
    content = read_json(ann_file, "annotations")
    try:
        return statistics(content)
    except (KeyError, TypeError, ValueError) as error:
        raise Unavailable(f"{ann_file} is not as expected: {error!r}") from error


def statistics(content: dict[str, Any]) -> Labels:
    """Statistics of annotations in COCO form whose images have ``width`` and ``height`` in px."""
    names = {entry["id"]: str(entry["name"]) for entry in content["categories"]}
    sides = {image["id"]: (image.get("width"), image.get("height")) for image in content["images"]}
    boxes = [a for a in content["annotations"] if not a.get("iscrowd") and a["category_id"] in names]
    counts = Counter(names[a["category_id"]] for a in boxes)
    images = Counter(a["image_id"] for a in boxes)
    shape = np.array([a["bbox"][2:] for a in boxes], float).reshape(-1, 2)
    whole = [sides.get(a["image_id"], (None, None)) for a in boxes]
    sized = np.array([bool(w and h) for w, h in whole], bool)
    relative = shape[sized] / np.array([pair for pair in whole if all(pair)], float).reshape(-1, 2)
    return Labels(
        tuple(names.values()),
        {name: counts[name] for name in names.values()},
        np.sqrt(np.maximum(shape.prod(axis=1), 0)),
        relative,
        np.array([images[image] for image in sides], int),
    )
