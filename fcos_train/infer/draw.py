"""Draws boxes, class names and scores into a picture."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np

from fcos_train.infer.detector import Detections
from fcos_train.infer.images import as_bgr

FONT = cv2.FONT_HERSHEY_SIMPLEX
GOLDEN = 0.618033988749895


def colour(label: int) -> tuple[int, int, int]:
    """BGR of a class: always the same, and neighbouring classes far apart on the colour circle."""
    red, green, blue = colorsys.hsv_to_rgb((0.02 + label * GOLDEN) % 1.0, 0.85, 0.95)
    return int(255 * blue), int(255 * green), int(255 * red)


def zoom_for(image: np.ndarray, wanted: int = 640) -> int:
    """The whole factor, 1 to 4, that brings the longer side of a small picture near ``wanted`` pixels."""
    return int(np.clip(round(wanted / max(image.shape[:2])), 1, 4))


def draw(
    image: np.ndarray, detections: Detections, classes: Sequence[str], score_thr: float = 0.3, zoom: int = 1
) -> np.ndarray:
    """A copy of the image with the detections of at least ``score_thr`` in it.

    Args:
        image: uint8 [H, W, 3] BGR (grey and BGRA are converted).
        detections: boxes in pixels of ``image``.
        classes: names by label; a label beyond them is written as its number.
        score_thr: boxes below are left out.
        zoom: enlarge the picture this many times first, so that text stays readable on small ones.

    Returns:
        uint8 [H * zoom, W * zoom, 3] BGR.
    """
    canvas = as_bgr(image).copy()
    if zoom > 1:
        canvas = cv2.resize(canvas, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    found = detections.above(score_thr)
    longer = max(canvas.shape[:2])
    line, font = max(1, round(longer / 350)), float(np.clip(longer / 1200, 0.35, 1.2))
    # The best is drawn last, on top.
    for index in np.argsort(found.scores, kind="stable"):
        label = int(found.labels[index])
        name = classes[label] if label < len(classes) else f"class {label}"
        corners = np.rint(np.clip(found.boxes[index] * zoom, -(2**20), 2**20)).astype(int)
        x1, y1, x2, y2 = corners.tolist()
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour(label), line)
        _tag(canvas, f"{name} {found.scores[index]:.2f}", (x1, y1, y2), colour(label), font)
    return canvas


def _tag(canvas: np.ndarray, text: str, place: tuple[int, int, int], fill: tuple[int, int, int], font: float) -> None:
    """Text on a filled plate above the box; inside it where there is no room above; never outside the picture."""
    height, width = canvas.shape[:2]
    x, top, bottom = place
    (text_width, text_height), baseline = cv2.getTextSize(text, FONT, font, 1)
    plate = text_height + baseline + 2
    y = top - plate if top >= plate else min(max(top, 0), max(bottom, 0))
    x, y = int(np.clip(x, 0, max(width - text_width - 2, 0))), int(np.clip(y, 0, max(height - plate, 0)))
    cv2.rectangle(canvas, (x, y), (x + text_width + 2, y + plate), fill, cv2.FILLED)
    # Black or white, whichever stands out from the plate (luma of ITU-R BT.601).
    luma = 0.114 * fill[0] + 0.587 * fill[1] + 0.299 * fill[2]
    ink = (0, 0, 0) if luma > 128 else (255, 255, 255)
    cv2.putText(canvas, text, (x + 1, y + text_height + 1), FONT, font, ink, 1, cv2.LINE_AA)
