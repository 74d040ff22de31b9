"""What every detector can do, whatever runs its network: be called with one image or many, as a whole or in slices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from mmengine.config import Config

from fcos_train.infer.detections import Detections, class_name
from fcos_train.infer.inputs import is_many, to_bgr
from fcos_train.infer.slicing import OVERLAP, in_slices
from mmcv_overrides.errors import UserError


class BaseDetector:
    """Base of detectors; a subclass implements :meth:`detect`.

    Attributes:
        classes: names by label; empty where the model does not name them.
        config: the configuration; empty where the model has none.
        notices: lines for the user about the configuration. device_reason: the device, and why it was chosen.
    """

    classes: tuple[str, ...]
    config: Config
    notices: list[str]
    device_reason: str

    def detect(self, images: Iterable[np.ndarray], batch_size: int = 1) -> list[Detections]:
        """Detect objects in images u8 [H, W, 3] BGR."""
        raise NotImplementedError

    def __call__(
        self,
        images: Any,
        batch_size: int = 1,
        slice_wh: tuple[int, int] | None = None,
        overlap: float = OVERLAP,
    ) -> Any:
        """Detect objects in one image, or in many.

        Args:
            images: an image: uint8 [H, W, 3] in BGR order as OpenCV reads it ([H, W] grey, BGRA and 16 bits are
                converted), the path of a file, an ``http(s)://`` address, a PIL image (RGB). Or many: a list, a tuple
                or an iterator of these, or an array uint8 [N, H, W, 3]; files are read one by one.
            batch_size: images (or slices of an image) that go through the model together.
            slice_wh: width and height in pixels of overlapping slices that are searched beside the whole image, for
                objects that are small in a large image; None: the whole image only.
            overlap: of neighbouring slices, as a fraction of their size.

        Returns:
            :class:`Detections` of one image, a list of them for many.

        Raises:
            UserError: an image cannot be read, or a wrong batch size or slice.
        """
        if batch_size < 1:
            raise UserError(f"batch_size {batch_size}: must be at least 1")
        many = is_many(images)
        loaded = map(to_bgr, images if many else (images,))
        if slice_wh is None:
            found = self.detect(loaded, batch_size)
        else:
            found = [in_slices(self.detect, image, slice_wh, overlap, batch_size) for image in loaded]
        return found if many else found[0]

    def name(self, label: int) -> str:
        """The name of a class, or its number if the checkpoint does not name it."""
        return class_name(self.classes, label)
