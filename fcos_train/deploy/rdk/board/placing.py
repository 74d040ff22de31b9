"""How an image is brought to the size of the network's input, and boxes back to the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

STRETCH, LETTERBOX, TOP_LEFT = 0, 1, 2
GREY = (127, 127, 127)


@dataclass(frozen=True)
class Placed:
    """An image in the input of the network.

    Attributes:
        image: u8 [H, W, 3] BGR.
        scale: input pixels per image pixel, horizontally and vertically.
        offset: left and top border in the input, in pixels.
        size: height and width of the original image.
    """

    image: np.ndarray
    scale: tuple[float, float]
    offset: tuple[int, int]
    size: tuple[int, int]

    def restored(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [N, 4] (x1 y1 x2 y2, input pixels) in pixels of the original image, clipped to it: int32 [N, 4]."""
        moved = (boxes - np.tile(self.offset, 2)) / np.tile(self.scale, 2)
        height, width = self.size
        return np.clip(moved, 0, np.tile((width, height), 2)).astype(np.int32)


def place(
    image: np.ndarray, height: int, width: int, how: int, fill: Sequence[float] = GREY, nearest: bool = True
) -> Placed:
    """Resize an image to the input of the network.

    Args:
        image: u8 [h, w, 3] BGR. height, width: of the input.
        how: ``STRETCH``: to the whole input. ``LETTERBOX``: sides in proportion, in the middle. ``TOP_LEFT``: sides in
            proportion, at the top left, as in training.
        fill: BGR value of the border.
        nearest: take the nearest pixel, as the vendor's program; else interpolate, as in training.
    """
    across, down = width / image.shape[1], height / image.shape[0]
    if how != STRETCH:
        across = down = min(across, down)
    rounded = 0.5 if how == TOP_LEFT else 0.0
    new_w, new_h = (max(1, int(side * s + rounded)) for side, s in zip(image.shape[1::-1], (across, down)))
    if how == TOP_LEFT:  # as in mmdet: the ratio of the rounded sides
        across, down = new_w / image.shape[1], new_h / image.shape[0]
    small = cv2.resize(image, (new_w, new_h), interpolation=cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR)
    left, top = ((width - new_w) // 2, (height - new_h) // 2) if how == LETTERBOX else (0, 0)
    whole = np.empty((height, width, 3), np.uint8)
    whole[:] = np.rint(fill).astype(np.uint8)
    whole[top : top + new_h, left : left + new_w] = small
    return Placed(whole, (across, down), (left, top), image.shape[:2])
