"""The twelve lines that pycocotools' ``summarize`` prints, with the detection limits of mmdet 2.x: 100, 300 and 1000.

``tools/test.py --eval bbox`` printed them, and the guides' tables are made of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fcos_train.evaluation.coco_scores import COCO_IOU_THRS, Scores

MAX_DETS = (100, 300, 1000)
AREAS = ("all", "small", "medium", "large")
# (is it precision, IoU threshold, area, index of the detection limit), in the order of the lines.
LINES = (
    (True, None, "all", 0),
    (True, 0.5, "all", 2),
    (True, 0.75, "all", 2),
    (True, None, "small", 2),
    (True, None, "medium", 2),
    (True, None, "large", 2),
    (False, None, "all", 0),
    (False, None, "all", 1),
    (False, None, "all", 2),
    (False, None, "small", 2),
    (False, None, "medium", 2),
    (False, None, "large", 2),
)


def twelve(scores: Scores, limits: Sequence[int] = (0, 1, 2)) -> tuple[float, ...]:
    """The numbers of the lines; -1 where the annotations have no box of that size.

    Args:
        limits: for each of :data:`MAX_DETS` the index of a limit of ``scores`` that gives the same numbers.
    """
    return tuple(_number(scores, precision, iou, area, limits[limit]) for precision, iou, area, limit in LINES)


def _number(scores: Scores, precision: bool, iou: float | None, area: str, limit: int) -> float:
    place = AREAS.index(area)
    table = scores.precision[:, :, :, place, limit] if precision else scores.recall[:, :, place, limit]
    if iou is not None:
        table = table[np.isclose(scores.iou_thrs, iou)]
    valid = table[table > -1]
    return float(valid.mean()) if valid.size else -1.0


def lines(numbers: Sequence[float], iou_thrs: Sequence[float] = COCO_IOU_THRS) -> list[str]:
    """The twelve lines of :func:`twelve`'s numbers, character by character as pycocotools prints them."""
    found = []
    for (precision, iou, area, limit), value in zip(LINES, numbers, strict=True):
        title = "Average Precision  (AP)" if precision else "Average Recall     (AR)"
        overlap = f"{iou_thrs[0]:0.2f}:{iou_thrs[-1]:0.2f}" if iou is None else f"{iou:0.2f}"
        found.append(f" {title} @[ IoU={overlap:<9} | area={area:>6s} | maxDets={MAX_DETS[limit]:>3d} ] = {value:0.3f}")
    return found
