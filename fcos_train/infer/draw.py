"""Draws boxes, class names and scores on an image: coloured by class, or plainly."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from fcos_train.infer.images import as_bgr

if TYPE_CHECKING:
    from fcos_train.infer.detector import Detections

FONT = cv2.FONT_HERSHEY_SIMPLEX
GOLDEN = 0.618033988749895


def colour(label: int) -> tuple[int, int, int]:
    """BGR colour of a class, fixed for its label; neighbouring labels are far apart on the colour circle."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + label * GOLDEN) % 1.0, 0.85, 0.95)
    return int(255 * blue), int(255 * green), int(255 * red)


def zoom_for(image: np.ndarray, wanted: int = 640) -> int:
    """Integer factor, 1 to 4, that brings the longer side of a small image near ``wanted`` pixels."""
    return int(np.clip(round(wanted / max(image.shape[:2])), 1, 4))


def draw(
    image: np.ndarray, detections: Detections, classes: Sequence[str], score_thr: float = 0.3, zoom: int = 1
) -> np.ndarray:
    """Return a copy of the image with the detections of at least ``score_thr`` drawn on it.

    Args:
        image: uint8 [H, W, 3] BGR (grey and BGRA are converted).
        detections: boxes in pixels of ``image``.
        classes: names by label; a label without a name is shown as its number.
        score_thr: boxes with a lower score are not drawn.
        zoom: enlarge the image by this factor first, so that text is readable on small images.

    Returns:
        uint8 [H * zoom, W * zoom, 3] BGR.
    """
    picture = as_bgr(image).copy()
    if zoom > 1:
        picture = cv2.resize(picture, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    found = detections.above(score_thr)
    longer = max(picture.shape[:2])
    line, font = max(1, round(longer / 350)), float(np.clip(longer / 1200, 0.35, 1.2))
    # The highest score is drawn last, on top.
    for index in np.argsort(found.scores, kind="stable"):
        label = int(found.labels[index])
        name = classes[label] if label < len(classes) else f"class {label}"
        x1, y1, x2, y2 = _corners(found.boxes[index] * zoom)
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour(label), line)
        _tag(picture, f"{name} {found.scores[index]:.2f}", (x1, y1, y2), colour(label), font)
    return picture


def draw_plain(
    image: np.ndarray,
    boxes: Sequence[Sequence[float]],
    texts: Sequence[str],
    line: tuple[int, int, int],
    ink: tuple[int, int, int],
) -> np.ndarray:
    """Return a copy of the image with boxes one pixel wide and unboxed text above them.

    Args:
        image: uint8 [H, W, 3] BGR.
        boxes: x1 y1 x2 y2 in pixels of the image. texts: one per box.
        line, ink: BGR colours of boxes and texts.
    """
    picture = as_bgr(image).copy()
    for box, text in zip(boxes, texts, strict=True):
        x1, y1, x2, y2 = _corners(box)
        cv2.rectangle(picture, (x1, y1), (x2, y2), line, 1)
        cv2.putText(picture, text, (x1, max(y1 - 2, 8)), FONT, 0.5, ink, 1)
    return picture


def _corners(box: np.ndarray | Sequence[float]) -> list[int]:
    """Nearest pixels of x1 y1 x2 y2, within the range that OpenCV takes."""
    return np.rint(np.clip(box, -(2**20), 2**20)).astype(int).tolist()


def _tag(picture: np.ndarray, text: str, place: tuple[int, int, int], fill: tuple[int, int, int], font: float) -> None:
    """Draw text on a filled rectangle above the box, or inside it at the top border; always within the picture.

    Args:
        place: x, top and bottom of the box in pixels.
        fill: BGR colour of the rectangle. font: scale of the font.
    """
    height, width = picture.shape[:2]
    x, top, bottom = place
    (text_width, text_height), baseline = cv2.getTextSize(text, FONT, font, 1)
    plate = text_height + baseline + 2
    y = top - plate if top >= plate else min(max(top, 0), max(bottom, 0))
    x, y = int(np.clip(x, 0, max(width - text_width - 2, 0))), int(np.clip(y, 0, max(height - plate, 0)))
    cv2.rectangle(picture, (x, y), (x + text_width + 2, y + plate), fill, cv2.FILLED)
    # Black or white, whichever stands out from the plate (luma of ITU-R BT.601).
    luma = 0.114 * fill[0] + 0.587 * fill[1] + 0.299 * fill[2]
    ink = (0, 0, 0) if luma > 128 else (255, 255, 255)
    cv2.putText(picture, text, (x + 1, y + text_height + 1), FONT, font, ink, 1, cv2.LINE_AA)
