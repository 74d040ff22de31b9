"""What a detector is called with, converted to an image: arrays, files, web addresses, PIL images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fcos_train.data.images import read_image
from fcos_train.infer.images import as_bgr
from fcos_train.infer.web import fetch_image, is_web
from mmcv_overrides.errors import UserError

DEEP = ("I;16", "I;16B", "I;16L")  # modes of PIL with 16 bits, whose own conversion to RGB cuts at 255


def is_pil(image: Any) -> bool:
    """Whether this is an image of PIL."""
    try:
        from PIL.Image import Image
    except ImportError:
        return False
    return isinstance(image, Image)


def is_many(images: Any) -> bool:
    """Whether a detector is to return a list: for a list, a tuple, an iterator or an array [N, H, W, 3]."""
    if isinstance(images, np.ndarray):
        return images.ndim == 4
    return not isinstance(images, (str, Path)) and not is_pil(images) and hasattr(images, "__iter__")


def to_bgr(image: Any) -> np.ndarray:
    """One input of a detector as uint8 [H, W, 3] in BGR order.

    Args:
        image: an array uint8 [H, W, 3] in BGR order as OpenCV reads it ([H, W] grey, BGRA and 16 bits are converted);
            the path of an image file, turned by its EXIF orientation; an ``http://`` or ``https://`` address of one; a
            PIL image, RGB by its nature and taken as it is.

    Raises:
        UserError: it is none of these, or cannot be read or decoded.
    """
    if isinstance(image, np.ndarray):
        return as_bgr(image)
    if isinstance(image, (str, Path)):
        return fetch_image(image) if isinstance(image, str) and is_web(image) else read_image(image)
    if is_pil(image):
        return _of_pil(image)
    raise UserError(f"not an image: expected an array, a path, an address or a PIL image, got {type(image).__name__}")


def _of_pil(image: Any) -> np.ndarray:
    try:
        if image.mode in DEEP:
            return as_bgr(np.asarray(image).astype(np.uint16))
        if image.mode in ("I", "F"):
            return as_bgr(np.asarray(image))  # says what is expected
        return np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])
    except (OSError, ValueError) as error:  # PIL reads the pixels of a file when they are asked for
        raise UserError(f"cannot read the PIL image: {error}") from error
