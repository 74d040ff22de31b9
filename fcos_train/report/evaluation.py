"""The files of one evaluation as arrays: ground truth, detections, and which belong together at an IoU of 0.5.

Symbols: T ground truth boxes, N detections, K classes. Boxes are x, y, width, height in px of the original image.
"""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

IOU = 0.5


class Unavailable(Exception):
    """A part of the report has no input; the message is the sentence that stands in its place."""


@dataclass(frozen=True)
class Evaluation:
    """Ground truth and detections of one evaluation.

    Attributes:
        classes: names, by label.
        images: entries of the annotation file, each with ``file_name``.
        truth_image, truth_label: [T] index into ``images`` and ``classes``. truth_box: [T, 4]. crowd: [T] bool.
        found_image, found_label, score: [N]. found_box: [N, 4].
        metrics: content of ``detections.metrics.json``.
    """

    classes: tuple[str, ...]
    images: list[dict[str, Any]]
    truth_image: np.ndarray
    truth_label: np.ndarray
    truth_box: np.ndarray
    crowd: np.ndarray
    found_image: np.ndarray
    found_label: np.ndarray
    found_box: np.ndarray
    score: np.ndarray
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Matches:
    """Which detection found which ground truth.

    Attributes:
        of_truth: [T] index of the detection that found each box, or -1.
        of_found: [N] index of the box that each detection found, or -1.
        counted: [N] bool, false for detections on a crowd region, which are neither right nor wrong.
    """

    of_truth: np.ndarray
    of_found: np.ndarray
    counted: np.ndarray


def read_json(path: Path, what: str) -> Any:
    """Content of a JSON file.

    Raises:
        Unavailable: it is absent, unreadable or no JSON; with ``what`` it is.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise Unavailable(f"no {what}: {path} ({getattr(error, 'strerror', None) or error})") from error


def read_evaluation(prefix: Path) -> Evaluation:
    """The evaluation that wrote ``<prefix>.metrics.json`` and ``<prefix>.bbox.json``.

    Raises:
        Unavailable: a file is absent or not as an evaluation writes it.
    """
    metrics = read_json(prefix.with_name(f"{prefix.name}.metrics.json"), "numbers of an evaluation")
    detections = read_json(prefix.with_name(f"{prefix.name}.bbox.json"), "detections")
    try:
        truth = read_json(_annotation_file(metrics["ann_file"], prefix.parent), "annotations")
        return _arrays(truth, detections, metrics)
    except (KeyError, TypeError, ValueError) as error:
        raise Unavailable(f"the files of the evaluation are not as expected: {error!r}") from error


def _annotation_file(named: str, work_dir: Path) -> Path:
    """The file itself, or the cleaned copy in a work dir that was moved."""
    copy = work_dir / "data" / Path(named).name
    return Path(named) if Path(named).is_file() or not copy.is_file() else copy


def _key(value: object) -> str:
    """An id as text: ids of annotations may be numbers in one place and text in another."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _arrays(truth: dict, detections: list[dict], metrics: dict) -> Evaluation:
    classes = tuple(metrics["per_class"])
    images = {_key(image["id"]): i for i, image in enumerate(truth["images"])}
    names = {_key(entry["id"]): str(entry["name"]) for entry in truth["categories"]}
    labels = {key: classes.index(name) for key, name in names.items() if name in classes}

    def known(entries: list[dict]) -> list[tuple[int, int, dict]]:
        placed = [(images.get(_key(e["image_id"])), labels.get(_key(e["category_id"])), e) for e in entries]
        return [(image, label, e) for image, label, e in placed if image is not None and label is not None]

    boxes, found = known(truth["annotations"]), known(detections)
    return Evaluation(
        classes,
        truth["images"],
        *_columns(boxes),
        np.array([bool(int(e.get("iscrowd") or 0)) for *_, e in boxes], bool),
        *_columns(found),
        np.array([e["score"] for *_, e in found], float),
        metrics,
    )


def _columns(entries: list[tuple[int, int, dict]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images [n], labels [n] and boxes [n, 4]."""
    images = np.array([image for image, *_ in entries], int)
    labels = np.array([label for _, label, _ in entries], int)
    return images, labels, np.array([e["bbox"] for *_, e in entries], float).reshape(-1, 4)


def match(evaluation: Evaluation, by_class: bool, least_score: float = 0.0) -> Matches:
    """Match detections to ground truth as COCO's evaluation does, by faster-coco-eval.

    In descending order of the score each detection takes the free box with the largest IoU, if it is at least
    :data:`IOU`; a crowd region only if there is no other, and any number of detections may take it.

    Args:
        by_class: only boxes of the detection's class. Without it a detection may take a box of another class.
        least_score: detections below are left out; they match nothing and do not count.
    """
    from faster_coco_eval import COCO
    from faster_coco_eval.extra.extra import ExtraEval

    of_truth, of_found = np.full(len(evaluation.truth_label), -1), np.full(len(evaluation.score), -1)
    kept = np.flatnonzero(evaluation.score >= least_score)
    if not len(kept) or not len(of_truth):
        return Matches(of_truth, of_found, evaluation.score >= least_score)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = _coco(evaluation)
        truth.createIndex()
        found = truth.loadRes(_results(evaluation, kept))
        result = ExtraEval(COCO(), None, "bbox", iou_tresh=IOU, useCats=by_class)
        result.cocoGt, result.cocoDt = truth, found  # the constructor would copy every entry
        result.evaluate()
    for number, annotation in result.cocoDt.anns.items():
        if annotation.get("gt_id") is not None:
            of_found[kept[number - 1]] = annotation["gt_id"] - 1
    on_crowd = (of_found >= 0) & evaluation.crowd[of_found]
    of_found[on_crowd] = -1
    right = np.flatnonzero(of_found >= 0)
    of_truth[of_found[right]] = right
    return Matches(of_truth, of_found, (evaluation.score >= least_score) & ~on_crowd)


def _coco(evaluation: Evaluation) -> dict[str, Any]:
    """The ground truth in COCO form, with ids from 1: evaluators take 0 for "not matched"."""
    rows = zip(evaluation.truth_image, evaluation.truth_label, evaluation.truth_box, evaluation.crowd, strict=True)
    annotations = [
        {
            "id": number,
            "image_id": int(image) + 1,
            "category_id": int(label) + 1,
            "bbox": box.tolist(),
            "area": float(box[2] * box[3]),
            "iscrowd": int(crowd),
        }
        for number, (image, label, box, crowd) in enumerate(rows, 1)
    ]
    return {
        "info": {},
        "images": [{"id": i + 1} for i in range(len(evaluation.images))],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(evaluation.classes)],
        "annotations": annotations,
    }


def _results(evaluation: Evaluation, kept: np.ndarray) -> list[dict[str, Any]]:
    """The detections in COCO form, in their order; ``loadRes`` numbers them from 1."""
    return [
        {
            "image_id": int(evaluation.found_image[i]) + 1,
            "category_id": int(evaluation.found_label[i]) + 1,
            "bbox": evaluation.found_box[i].tolist(),
            "score": float(evaluation.score[i]),
        }
        for i in kept
    ]
