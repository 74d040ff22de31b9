"""Draws detections as the vendor's programs do."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

# BGR, by label modulo 20.
PALETTE = (
    (56, 56, 255), (151, 157, 255), (31, 112, 255), (29, 178, 255), (49, 210, 207),
    (10, 249, 72), (23, 204, 146), (134, 219, 61), (52, 147, 26), (187, 212, 0),
    (168, 153, 44), (255, 194, 0), (147, 69, 52), (255, 115, 100), (236, 24, 0),
    (255, 56, 132), (133, 0, 82), (255, 56, 203), (200, 149, 255), (199, 55, 255),
)  # fmt: skip
FONT = cv2.FONT_HERSHEY_SIMPLEX
BLACK = (0, 0, 0)


def draw(image: np.ndarray, box: Sequence[int], label: int, name: str, score: float) -> None:
    """Draw one detection into an image u8 [H, W, 3] BGR: a box 2 pixels wide, and `name: 0.85` on a filled box.

    Args:
        box: x1 y1 x2 y2 in pixels. label: index of the class.
    """
    x1, y1, x2, y2 = (int(side) for side in box)
    colour = PALETTE[label % len(PALETTE)]
    cv2.rectangle(image, (x1, y1), (x2, y2), colour, 2)
    text = f"{name}: {score:.2f}"
    (width, height), _ = cv2.getTextSize(text, FONT, 0.5, 1)
    base = y1 - 10 if y1 - 10 > height else y1 + 10  # below the top edge where the text does not fit above it
    cv2.rectangle(image, (x1, base - height), (x1 + width, base + height), colour, cv2.FILLED)
    cv2.putText(image, text, (x1, base), FONT, 0.5, BLACK, 1, cv2.LINE_AA)
