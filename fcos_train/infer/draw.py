"""Draws boxes, class names and scores on an image: coloured by class with supervision, or plainly."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from fcos_train.infer.images import as_bgr

if TYPE_CHECKING:
    import supervision as sv

    from fcos_train.infer.detections import Detections

FONT = cv2.FONT_HERSHEY_SIMPLEX
SPREAD = 30  # names that are moved apart


@cache
def _palettes() -> tuple[sv.ColorPalette, sv.ColorPalette]:
    """Colours of classes by label, and for each one the text colour that stands out: black or white (ITU-R BT.601)."""
    import supervision as sv

    fills = sv.ColorPalette.DEFAULT
    lumas = [0.299 * fill.r + 0.587 * fill.g + 0.114 * fill.b for fill in fills.colors]
    return fills, sv.ColorPalette([sv.Color.BLACK if luma > 128 else sv.Color.WHITE for luma in lumas])


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
    import supervision as sv

    picture = as_bgr(image).copy()
    if zoom > 1:
        picture = cv2.resize(picture, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    found = detections.above(score_thr)
    found = found.select(np.argsort(found.scores, kind="stable"))  # the highest score is drawn last, on top
    shown = found.to_supervision()
    shown.xyxy = sv.clip_boxes(shown.xyxy * zoom, (picture.shape[1], picture.shape[0]))
    names = [classes[label] if label < len(classes) else f"class {label}" for label in found.labels]
    texts = [f"{name} {score:.2f}" for name, score in zip(names, found.scores, strict=True)]
    longer = max(picture.shape[:2])
    fills, inks = _palettes()
    picture = sv.BoxAnnotator(fills, thickness=max(1, round(longer / 350))).annotate(picture, shown)
    scale = float(np.clip(longer / 1200, 0.35, 1.2))
    # Moves names that overlap, or that would lie outside the picture. Its time grows with the square of their number.
    spread = len(found) <= SPREAD
    labels = sv.LabelAnnotator(fills, text_color=inks, text_scale=scale, text_padding=3, smart_position=spread)
    return labels.annotate(picture, shown, texts)


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
        # Nearest pixels, within the range that OpenCV takes.
        x1, y1, x2, y2 = np.rint(np.clip(box, -(2**20), 2**20)).astype(int).tolist()
        cv2.rectangle(picture, (x1, y1), (x2, y2), line, 1)
        cv2.putText(picture, text, (x1, max(y1 - 2, 8)), FONT, 0.5, ink, 1)
    return picture
