"""Detections as a COCO document with the names of the classes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from fcos_train.data.coco_names import COCO_IDS, COCO_NAMES
from fcos_train.infer.detector import Detections
from fcos_train.serve.limits import Refused
from mmcv_overrides.printable import printable


@dataclass(frozen=True)
class Answer:
    """What the model found in one image.

    Attributes:
        width, height: of the image, px.
        found: all detections. seconds: that the model took, with the preparation of the image.
        preview: u8 [h, w, 3] BGR, the image for the page, reduced; None where nobody looks at it.
    """

    width: int
    height: int
    found: Detections
    seconds: float
    preview: np.ndarray | None = None


def chosen(found: Detections, score_thr: float, labels: Collection[int]) -> Detections:
    """The detections of at least a score, of some classes.

    Args:
        labels: of the classes; empty: all.
    """
    kept = found.above(score_thr)
    if not labels:
        return kept
    wanted = np.isin(kept.labels, list(labels))
    return Detections(kept.boxes[wanted], kept.scores[wanted], kept.labels[wanted])


def labels_of(names: Sequence[str], classes: Sequence[str]) -> list[int]:
    """The labels of some class names.

    Raises:
        Refused: a name that the model does not have.
    """
    unknown = [name for name in names if name not in classes]
    if unknown:
        have = ", ".join(classes[:10]) + (f" and {len(classes) - 10} more" if len(classes) > 10 else "")
        raise Refused(422, f"There is no class {printable(unknown[0])[:80]}; the model detects {have or 'no names'}.")
    return [label for label, name in enumerate(classes) if name in names]


def class_name(label: int, classes: Sequence[str]) -> str:
    """The name of a class, or its number if the model does not name it."""
    return classes[label] if label < len(classes) else f"class {label}"


def category_id(label: int, classes: Sequence[str]) -> int:
    """The number of a class: COCO's own for COCO's 80 classes, else counted from 1."""
    return COCO_IDS[label] if tuple(classes) == COCO_NAMES else label + 1


def document(images: Sequence[tuple[str, Answer, Detections]], classes: Sequence[str]) -> dict:
    """A COCO document: ``images``, ``categories`` and ``annotations`` with scores.

    Ids count from 1, except those of COCO's own classes. A ``bbox`` is x, y, width, height in pixels of the image.

    Args:
        images: file name, answer, and those of its detections that are wanted, for each image.
        classes: names by label.
    """
    seen = {int(label) for _, _, found in images for label in found.labels}
    known = sorted(seen | set(range(len(classes))))
    document: dict = {
        "info": {"seconds": round(sum(answer.seconds for _, answer, _ in images), 4)},
        "images": [
            {"id": number, "file_name": name, "width": answer.width, "height": answer.height}
            for number, (name, answer, _) in enumerate(images, start=1)
        ],
        "categories": [{"id": category_id(label, classes), "name": class_name(label, classes)} for label in known],
        "annotations": [],
    }
    for number, (_, _, found) in enumerate(images, start=1):
        for (x1, y1, x2, y2), score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist()):
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": number,
                    "category_id": category_id(label, classes),
                    "category_name": class_name(label, classes),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "score": score,
                }
            )
    return document
