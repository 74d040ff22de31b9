"""Moves boxes and masks from the frame of the annotations into that of the image as it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as rle

Size = tuple[int, int]  # width, height in px
Box = tuple[float, float, float, float]  # x, y, width, height in px

# EXIF orientation -> a point (x, y) of the stored image of w x h px, as it is seen.
_POINTS: dict[int, Callable[[Any, Any, float, float], tuple[Any, Any]]] = {
    1: lambda x, y, w, h: (x, y),
    2: lambda x, y, w, h: (w - x, y),
    3: lambda x, y, w, h: (w - x, h - y),
    4: lambda x, y, w, h: (x, h - y),
    5: lambda x, y, w, h: (y, x),
    6: lambda x, y, w, h: (h - y, x),
    7: lambda x, y, w, h: (h - y, w - x),
    8: lambda x, y, w, h: (y, w - x),
}
# The same for pixels [h, w].
_PIXELS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda m: m,
    2: np.fliplr,
    3: lambda m: np.rot90(m, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda m: np.rot90(m, -1),
    7: lambda m: np.rot90(m.T, 2),
    8: np.rot90,
}


@dataclass(frozen=True)
class Move:
    """How the image as it is loaded follows from the one that was annotated: scaled, then turned.

    Attributes:
        annotated: (width, height) that the boxes count in, px.
        stored: (width, height) of the file before it is turned, px; other than ``annotated`` if it was resized.
        orientation: EXIF orientation, 1 to 8.
    """

    annotated: Size
    stored: Size
    orientation: int = 1

    @property
    def _scale(self) -> tuple[float, float]:
        return self.stored[0] / self.annotated[0], self.stored[1] / self.annotated[1]

    def points(self, xs: np.ndarray, ys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates [N] in the image as it is loaded."""
        across, down = self._scale
        return _POINTS[self.orientation](xs * across, ys * down, *self.stored)

    def box(self, box: Sequence[float]) -> Box:
        """A box x, y, width, height."""
        x, y, w, h = box
        xs, ys = self.points(np.array([x, x + w], float), np.array([y, y + h], float))
        return float(xs.min()), float(ys.min()), float(np.ptp(xs)), float(np.ptp(ys))

    def annotation(self, annotation: dict) -> dict:
        """A copy of an annotation with its box (four numbers), area, polygons and mask moved."""
        moved = dict(annotation, bbox=[round(value, 6) for value in self.box(annotation["bbox"])])
        across, down = self._scale
        if isinstance(moved.get("area"), (int, float)):
            moved["area"] *= across * down
        if moved.get("segmentation"):
            moved["segmentation"] = self.segmentation(moved["segmentation"])
        return moved

    def segmentation(self, parts: Any) -> Any:
        """Polygons, or a run-length mask of COCO; anything else is left as it is."""
        if isinstance(parts, dict):
            return self._mask(parts)
        return [self._polygon(part) for part in parts] if isinstance(parts, list) else parts

    def _polygon(self, part: Any) -> Any:
        try:
            points = np.array(part, float).reshape(-1, 2)
        except (TypeError, ValueError):  # not pairs of numbers
            return part
        return np.stack(self.points(points[:, 0], points[:, 1]), 1).round(6).ravel().tolist()

    def _mask(self, coded: dict) -> dict:
        try:
            plain = isinstance(coded.get("counts"), list)
            mask = rle.decode(rle.frPyObjects(coded, *coded["size"]) if plain else coded)
        except (KeyError, TypeError, ValueError):  # not a mask
            return coded
        if self.stored != self.annotated:
            mask = cv2.resize(mask, self.stored, interpolation=cv2.INTER_NEAREST)
        found = rle.encode(np.asfortranarray(_PIXELS[self.orientation](mask)))
        return {"size": [int(side) for side in found["size"]], "counts": found["counts"].decode("ascii")}
