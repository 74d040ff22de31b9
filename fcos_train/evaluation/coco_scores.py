"""COCO average precision and recall of boxes, computed on arrays, without mmengine.

Shapes of the evaluator's tables: T IoU thresholds, R = 101 recall points, K categories, A = 4 area ranges
(all, small, medium, large), M detection limits.
Definition: https://cocodataset.org/#detection-eval
"""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmcv_overrides.errors import UserError
from mmcv_overrides.json_values import Id, IdLinks, flag, numbered, plain_id
from mmcv_overrides.printable import printable, require_names
from mmcv_overrides.regular_files import is_number, read_json

ALL, SMALL, MEDIUM, LARGE = range(4)
COCO_IOU_THRS = tuple(np.linspace(0.5, 0.95, 10))


@dataclass(frozen=True)
class Scores:
    """Tables of one evaluation, categories in the order of the model's classes.

    Attributes:
        precision: [T, R, K, A, M]; -1 where the category has no ground truth of that size.
        recall: [T, K, A, M]; -1 likewise.
        iou_thrs: [T].
        max_dets: the M detection limits, ascending.
        evaluator: name and version of the library that computed them.
    """

    precision: np.ndarray
    recall: np.ndarray
    iou_thrs: np.ndarray
    max_dets: tuple[int, ...]
    evaluator: str

    def ap(self, iou: float | None = None, area: int = ALL, category: int | None = None) -> float:
        """Average precision at the largest detection limit; -1 if there is no ground truth.

        Args:
            iou: one threshold; None: the mean of all. The result for a threshold that was not evaluated is -1.
            area: index of the area range.
            category: index of one class; None: the mean of all classes.
        """
        table = self.precision[:, :, :, area, -1]
        return _mean(_pick(table, self.iou_thrs, iou, category, category_axis=2))

    def ar(self, limit: int = -1, area: int = ALL, category: int | None = None) -> float:
        """Average recall with the ``limit``-th detection limit (an index into ``max_dets``); -1 as in :meth:`ap`."""
        table = self.recall[:, :, area, limit]
        return _mean(_pick(table, self.iou_thrs, None, category, category_axis=1))


def _pick(
    table: np.ndarray, iou_thrs: np.ndarray, iou: float | None, category: int | None, category_axis: int
) -> np.ndarray:
    if iou is not None:
        table = table[np.isclose(iou_thrs, iou)]
    if category is not None:
        table = np.take(table, [category], axis=category_axis)
    return table


def _mean(table: np.ndarray) -> float:
    valid = table[table > -1]
    return float(valid.mean()) if valid.size else -1.0


def load_annotations(path: str | Path) -> dict:
    """Read a COCO annotation file and prepare it for evaluation.

    Annotation ids are renumbered from 1: COCO evaluators use id 0 for "unmatched", so that box would count as missed
    even if it was found. Missing ``iscrowd`` is 0 and missing ``area`` is the area of the box. Ids of images and
    categories stay as they are, text included; what annotations name is the entry of the same id, or else the only one
    of the same number ("1" and 1).

    Raises:
        UserError: the file is absent, not JSON, or not a COCO detection file: boxes and areas must be finite numbers,
            ids numbers or text, class names numbers or text without control characters.
    """
    path = Path(path)
    data = read_json(path, "annotation file")
    keys = ("images", "annotations", "categories")
    missing = [key for key in keys if not isinstance(data, dict) or not isinstance(data.get(key), list)]
    if missing:
        raise UserError(f"{path} is not a COCO annotation file: it lacks {', '.join(missing)}")
    images = _entries(data["images"], _image, f"{path}: images")
    annotations = _entries(data["annotations"], _annotation, f"{path}: annotations")
    categories = _entries(data["categories"], _category, f"{path}: categories")
    require_names((category["name"] for category in categories), str(path))
    for key, entries in (("image_id", images), ("category_id", categories)):
        links = IdLinks(entry["id"] for entry in entries)
        for annotation in annotations:
            annotation[key] = links.find(annotation[key])
    return {"images": images, "annotations": annotations, "categories": categories}


def _entries(entries: list, read: Callable[[dict, int], dict], where: str) -> list[dict]:
    """The result of ``read`` for each entry and its number, from 1.

    Raises:
        UserError: an entry lacks a key or has a value of another type; the message has its index, from 0.
    """
    found: list[dict] = []
    try:
        for entry in entries:
            found.append(read(entry, len(found) + 1))
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise UserError(
            f"{where}[{len(found)}] is not as in a COCO annotation file: {printable(repr(error))}"
        ) from error
    return found


def _image(entry: dict, number: int) -> dict:
    return {"id": _id(entry["id"])}


def _annotation(entry: dict, number: int) -> dict:
    box = entry["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        raise ValueError("bbox must be four finite numbers")
    area = entry.get("area")
    area = box[2] * box[3] if area is None else area
    if not is_number(area):
        raise ValueError("area must be a finite number")
    crowd = flag(entry.get("iscrowd"))
    if crowd is None:
        raise ValueError("iscrowd must be 0 or 1")
    return {
        "id": number,
        "image_id": _id(entry["image_id"]),
        "category_id": _id(entry["category_id"]),
        "bbox": box,
        "iscrowd": crowd,
        "area": area,
    }


def _category(entry: dict, number: int) -> dict:
    name = entry["name"]
    named = isinstance(name, (int, float)) and not isinstance(name, bool)
    return {**entry, "id": _id(entry["id"]), "name": str(name) if named else name}


def _id(value: object) -> Id:
    found = plain_id(value)
    if found is None:
        raise TypeError("an id must be a number or text")
    return found


def category_ids(categories: Sequence[dict], classes: Sequence[str], where: str) -> list[Id]:
    """Ids of the file's categories in the order of the model's classes, found by name.

    Raises:
        UserError: a class is not in the file, or the file has a category twice; the message shows both lists.
    """
    names = [category["name"] for category in categories]
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise UserError(f"{where} names these categories more than once: {', '.join(twice)}")
    ids = {category["name"]: category["id"] for category in categories}
    absent = [name for name in classes if name not in ids]
    if absent:
        raise UserError(
            f"the model's classes and the categories of {where} do not match.\n"
            f"  model:      {', '.join(classes)}\n"
            f"  file:       {', '.join(names)}\n"
            f"  not in the file: {', '.join(absent)}\n"
            "Evaluate on annotations with these names, or train with classes=... of this file."
        )
    return [ids[name] for name in classes]


def evaluate_boxes(
    dataset: dict,
    detections: Sequence[dict],
    cat_ids: Sequence[Id],
    max_dets: Sequence[int] = (1, 10, 100),
    iou_thrs: Sequence[float] = COCO_IOU_THRS,
    library: str | None = None,
) -> Scores:
    """Match detections to ground truth and compute the precision and recall tables.

    Args:
        dataset: from :func:`load_annotations`; every image in it counts.
        detections: COCO results, one dict per box: image_id, category_id, bbox (x, y, w, h in px), score; ids as in
            ``dataset``, of any kind.
        cat_ids: categories to evaluate, in the order of the tables.
        max_dets: detection limits per image and category, ascending.
        iou_thrs: IoU thresholds.
        library: ``faster_coco_eval`` or ``pycocotools``, which give the same numbers; None: the first that is
            installed.
    """
    coco_class, eval_class, name = _library(library)
    dataset, detections, cat_ids = _with_numbers(dataset, detections, cat_ids)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = coco_class()
        truth.dataset = {**dataset, "info": {}}
        truth.createIndex()
        found = truth.loadRes([dict(detection) for detection in detections])
        counter = eval_class(truth, found, "bbox")
        counter.params.catIds = list(cat_ids)
        counter.params.maxDets = list(max_dets)
        counter.params.iouThrs = np.asarray(iou_thrs, dtype=np.float64)
        counter.evaluate()
        counter.accumulate()
    # The evaluator sorts the ids; restore the order of the classes.
    order = np.searchsorted(np.sort(cat_ids), cat_ids)
    precision, recall = np.asarray(counter.eval["precision"]), np.asarray(counter.eval["recall"])
    return Scores(precision[:, :, order], recall[:, order], np.asarray(iou_thrs), tuple(sorted(max_dets)), name)


def _with_numbers(
    dataset: dict, detections: Sequence[dict], cat_ids: Sequence[Id]
) -> tuple[dict, list[dict], list[int]]:
    """The same with whole numbers for ids: evaluators keep ids in doubles, which cannot hold text nor tell 2^53 from
    2^53 + 1. Numbers stay as they are, because their order decides between equal scores."""
    images, categories = (numbered(entry["id"] for entry in dataset[key]) for key in ("images", "categories"))

    def renumber(entry: dict) -> dict:
        return {
            **entry,
            "image_id": images[entry["image_id"]],
            "category_id": categories[entry["category_id"]],
        }

    known = [a for a in dataset["annotations"] if a["image_id"] in images and a["category_id"] in categories]
    truth = {
        "images": [{**image, "id": images[image["id"]]} for image in dataset["images"]],
        "annotations": [renumber(annotation) for annotation in known],
        "categories": [{**category, "id": categories[category["id"]]} for category in dataset["categories"]],
    }
    return truth, [renumber(found) for found in detections], [categories[i] for i in cat_ids]


def _library(wanted: str | None) -> tuple[Any, Any, str]:
    """(COCO, COCOeval, "name version") of faster-coco-eval, or of pycocotools if it is not installed."""
    if wanted in (None, "faster_coco_eval"):
        try:
            import faster_coco_eval
            from faster_coco_eval import COCO, COCOeval_faster

            return COCO, COCOeval_faster, f"faster-coco-eval {faster_coco_eval.__version__}"
        except ImportError:
            if wanted:
                raise
    from importlib.metadata import version

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return COCO, COCOeval, f"pycocotools {version('pycocotools')}"
