"""A detector without a network: bright rectangles on a dark ground, found in the image scaled to the size of its input.

Its boxes and scores follow from the image, so tests can write the numbers out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from mmengine.config import Config

from fcos_train.infer.base import BaseDetector
from fcos_train.infer.detections import Detections

SPOTS = ("grey", "white")  # the classes; label 2 has no name


class SpotDetector(BaseDetector):
    """Finds rectangles of at least ``smallest`` px in an image scaled to at most ``side`` px.

    The score is the brightness / 256; with ``sized``, times 1 - 1 / area, so that a part scores less than the whole.

    Attributes:
        batches: number of images of each call.
    """

    def __init__(
        self, side: int = 1000, smallest: int = 4, classes: Sequence[str] = SPOTS, sized: bool = False
    ) -> None:
        self.side, self.smallest, self.sized = side, smallest, sized
        self.classes, self.config = tuple(classes), Config()
        self.notices, self.device_reason = [], "device none: a test"
        self.batches: list[int] = []

    def detect(self, images: Iterable[np.ndarray], batch_size: int = 1) -> list[Detections]:
        images = list(images)
        self.batches += [len(images[i : i + batch_size]) for i in range(0, len(images), batch_size)]
        return [self._one(image) for image in images]

    def _one(self, image: np.ndarray) -> Detections:
        scale = min(1.0, self.side / max(image.shape[:2]))
        small = cv2.resize(image[:, :, 1], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        count, map_, stats, _ = cv2.connectedComponentsWithStats((small > 50).astype(np.uint8))
        rows = []
        for index, (x, y, width, height, _) in enumerate(stats[1:count].tolist(), start=1):
            level = int(small[map_ == index].max())
            if min(width, height) >= self.smallest:
                score = level / 256 * (1 - self.sized / (width * height))
                rows.append([x, y, x + width, y + height, score, {128: 0, 192: 1}.get(level, 2)])
        table = np.array(sorted(rows, key=lambda row: -row[4]), np.float64).reshape(-1, 6)
        return Detections(
            (table[:, :4] / scale).astype(np.float32),
            table[:, 4].astype(np.float32),
            table[:, 5].astype(np.int64),
            self.classes,
        )


def spots(width: int, height: int, *boxes: tuple[int, int, int, int, int]) -> np.ndarray:
    """An image u8 [H, W, 3], black but for boxes x1 y1 x2 y2 of a brightness."""
    image = np.zeros((height, width, 3), np.uint8)
    for x1, y1, x2, y2, level in boxes:
        image[y1:y2, x1:x2] = level
    return image
