"""What was found in one image, and its forms: for supervision, as COCO entries, drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fcos_train.data.coco_names import COCO_IDS, COCO_NAMES

if TYPE_CHECKING:
    import supervision as sv
    from PIL.Image import Image


@dataclass(frozen=True)
class Detections:
    """Detections of one image, in the order of the model: highest score first.

    Attributes:
        boxes: float32 [N, 4], x1 y1 x2 y2 in pixels of the image.
        scores: float32 [N], 0 to 1.
        labels: int64 [N], indices into ``classes``.
        classes: names by label, of all classes of the model; empty where it does not name them.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Number of detections."""
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """The class name of each detection; ``class 7`` where the model does not name its classes."""
        return [class_name(self.classes, int(label)) for label in self.labels]

    def above(self, score_thr: float) -> Detections:
        """The detections with at least this score."""
        return self.select(self.scores >= score_thr)

    def select(self, which: np.ndarray) -> Detections:
        """The detections that a mask or indices [M] select."""
        return Detections(self.boxes[which], self.scores[which], self.labels[which], self.classes)

    def to_supervision(self) -> sv.Detections:
        """The same for the supervision library; the names are in ``data["class_name"]``."""
        import supervision as sv

        return sv.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.labels.copy(),
            data={"class_name": np.array(self.names, dtype=np.str_)},
        )

    def to_coco(self, image_id: int | str) -> list[dict[str, Any]]:
        """The entries of a COCO results file: ``image_id``, ``category_id``, ``bbox`` (x y w h, px), ``score``.

        Categories are numbered from 1 in the order of the classes; COCO's own 80 classes have COCO's own numbers.
        """
        ids = category_ids(self.classes)
        corners = self.boxes.astype(float)
        sizes = corners[:, 2:] - corners[:, :2]
        return [
            {
                "image_id": image_id,
                "category_id": ids[label] if label < len(ids) else label + 1,
                "bbox": [*corner.tolist(), *size.tolist()],
                "score": score,
            }
            for label, corner, size, score in zip(
                self.labels.tolist(), corners[:, :2], sizes, self.scores.tolist(), strict=True
            )
        ]

    def draw(self, image: np.ndarray | str | Path | Image, score_thr: float = 0.0) -> np.ndarray | Image:
        """A copy of the image with the detections drawn on it.

        Args:
            image: the one that was searched: uint8 [H, W, 3] BGR, a path, or a PIL image.
            score_thr: boxes with a lower score are not drawn.

        Returns:
            uint8 [H, W, 3] BGR; of a PIL image, a PIL image (RGB).

        Raises:
            UserError: the image cannot be read.
        """
        from fcos_train.infer.draw import draw
        from fcos_train.infer.inputs import is_pil, to_bgr

        picture = draw(to_bgr(image), self, self.classes, score_thr)
        if not is_pil(image):
            return picture
        from PIL import Image as images

        return images.fromarray(np.ascontiguousarray(picture[:, :, ::-1]))


def class_name(classes: tuple[str, ...], label: int) -> str:
    """The name of a class, or its number if it has none."""
    return classes[label] if label < len(classes) else f"class {label}"


def category_ids(classes: tuple[str, ...]) -> tuple[int, ...]:
    """The numbers of the classes in a COCO file."""
    return COCO_IDS if classes == COCO_NAMES else tuple(range(1, len(classes) + 1))
