"""The twelve COCO numbers as the original toolchain prints them, with limits of 100, 300 and 1000 detections."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fcos_train.deploy.parts.files import some
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_whole
from mmcv_overrides.json_values import IdLinks
from mmcv_overrides.printable import printable
from mmcv_overrides.regular_files import is_number, read_json

_KEYS = ("bbox_mAP", "bbox_mAP_50", "bbox_mAP_75", "bbox_mAP_s", "bbox_mAP_m", "bbox_mAP_l")


@dataclass(frozen=True)
class CocoNumbers:
    """Twelve numbers in the order of the printed lines; -1 if the annotations have no box of that size."""

    stats: tuple[float, ...]

    def lines(self) -> list[str]:
        """The twelve lines as pycocotools prints them."""
        from fcos_train.evaluation.classic import lines

        return lines(self.stats)

    def summary(self) -> dict[str, float | str]:
        """The six precisions to three decimals, and all six as one text to copy."""
        six = self.stats[:6]
        summary: dict[str, float | str] = {key: float(f"{value:.3f}") for key, value in zip(_KEYS, six, strict=True)}
        summary["bbox_mAP_copypaste"] = " ".join(f"{value:.3f}" for value in six)
        return summary


def read_results(path: str | Path) -> list[dict]:
    """Read a COCO result file.

    Raises:
        UserError: the file is absent, not JSON, or not a list of boxes.
    """
    results = read_json(path, "results")
    keys = {"image_id", "category_id", "bbox", "score"}
    if not isinstance(results, list) or any(not isinstance(r, dict) or keys - r.keys() for r in results):
        raise UserError(f"{path} is not a COCO result file: expected a list of objects with {', '.join(sorted(keys))}")
    for number, result in enumerate(results):
        if not all(isinstance(result[key], str) or is_number(result[key]) for key in ("image_id", "category_id")):
            raise UserError(
                f"{path}: entry {number} has an image_id or a category_id that is neither a number nor text"
            )
        box = result["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, [*box, result["score"]])):
            raise UserError(
                f"{path}: entry {number} needs a score and a bbox of four numbers, all finite; it has "
                f"{printable(json.dumps({'score': result['score'], 'bbox': box}))[:200]}"
            )
    return results


def evaluate(annotations: str | Path, results: Sequence[dict], where: str | Path = "the results") -> CocoNumbers:
    """Evaluate results (COCO dicts) with a COCO annotation file.

    Args:
        where: name of the results in messages.

    Raises:
        UserError: unreadable annotations, or results for images or categories that they do not have.
    """
    from fcos_train.evaluation.classic import MAX_DETS, twelve
    from fcos_train.evaluation.coco_scores import evaluate_boxes, load_annotations

    truth = load_annotations(annotations)
    results = [dict(result) for result in results]
    for key, entries in (("image_id", truth["images"]), ("category_id", truth["categories"])):
        links = IdLinks(entry["id"] for entry in entries)
        means = {value: links.find(value) for value in {result[key] for result in results}}
        foreign = sorted((value for value, found in means.items() if found is None), key=str)
        for result in results:
            result[key] = means[result[key]]
        if foreign:
            raise UserError(
                f"{where} has {key} {some(foreign)}, which {annotations} does not: "
                "results and annotations are of different data sets"
            )
    if not results:
        return CocoNumbers((0.0,) * 12)
    ids = [category["id"] for category in truth["categories"]]
    scores = evaluate_boxes(truth, results, ids, max_dets=MAX_DETS)
    return CocoNumbers(twelve(scores))


def coco_eval(annotations: str | Path, results: str | Path, out: str | Path) -> CocoNumbers:
    """Evaluate a result file, and write the summary to ``out`` as `key: value` lines."""
    numbers = evaluate(annotations, read_results(results), results)
    write_whole(out, "".join(f"{key}: {value}\n" for key, value in numbers.summary().items()))
    return numbers
