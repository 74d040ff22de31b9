"""What the page shows of an image: the picture with boxes, a table, and one line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fcos_train.infer.detector import Detections
from fcos_train.infer.draw import draw, zoom_for
from fcos_train.serve.answer import Answer, class_name


def draw_on(picture: np.ndarray, answer: Answer, found: Detections, classes: Sequence[str]) -> np.ndarray:
    """Draw detections.

    Args:
        picture: u8 [h, w, 3] BGR, the image of the answer or a smaller copy.
        found: those that are drawn, in pixels of the image.

    Returns:
        u8 [h, w, 3] BGR.
    """
    scale = np.float32(picture.shape[1] / answer.width), np.float32(picture.shape[0] / answer.height)
    boxes = found.boxes * np.array([*scale, *scale], np.float32)
    return draw(picture, Detections(boxes, found.scores, found.labels), classes, score_thr=0)


def shown(answer: Answer, found: Detections, classes: Sequence[str]) -> np.ndarray:
    """The picture of the page u8 [h, w, 3] BGR, enlarged where the image is small."""
    assert answer.preview is not None
    boxes = Detections(found.boxes, found.scores, found.labels)
    if (zoom := zoom_for(answer.preview)) > 1:  # then the preview has the size of the image
        return draw(answer.preview, boxes, classes, 0, zoom)
    return draw_on(answer.preview, answer, boxes, classes)


def rows(found: Detections, classes: Sequence[str]) -> list[list[str | float]]:
    """One row for each detection: class, score, x, y, width, height."""
    return [
        [class_name(label, classes), round(score, 3), *(round(number, 1) for number in (x1, y1, x2 - x1, y2 - y1))]
        for (x1, y1, x2, y2), score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist())
    ]


def line(answer: Answer, found: Detections) -> str:
    """Such as ``3 of 7 objects | 35 ms | 640 x 480 pixels``."""
    shown, all_of_them = len(found), len(answer.found)
    count = f"{shown} of {all_of_them} objects shown" if shown != all_of_them else f"{shown} objects"
    return f"**{count}** · {1000 * answer.seconds:.0f} ms · {answer.width} × {answer.height} pixels"
