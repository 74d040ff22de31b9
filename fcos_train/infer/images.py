"""Reading and writing single pictures with OpenCV."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from mmcv_overrides.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def read_image(path: str | Path) -> np.ndarray:
    """An image file as uint8 [H, W, 3] in BGR order; EXIF rotation applied, grey and alpha converted.

    Raises:
        UserError: the file is absent or OpenCV cannot decode it; the message names it.
    """
    path = Path(path)
    try:
        data = np.fromfile(path, dtype=np.uint8)  # also where the path is not ASCII
    except OSError as error:
        raise UserError(f"cannot read the image {path}: {error.strerror}") from error
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise UserError(f"{path} is not an image that can be read ({data.size} bytes)")
    return image


def write_image(path: str | Path, image: np.ndarray) -> Path:
    """Write a picture in the format of its suffix.

    Raises:
        UserError: the folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imencode(path.suffix, image)[1].tofile(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    return path


def as_bgr(image: np.ndarray) -> np.ndarray:
    """Any common image array as contiguous uint8 [H, W, 3] in BGR order.

    Args:
        image: [H, W], [H, W, 1], [H, W, 3] (BGR) or [H, W, 4] (BGRA, alpha dropped); uint8, uint16 or bool.

    Raises:
        UserError: another shape or number type.
    """
    image = np.asarray(image)
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    elif image.dtype == bool:
        image = image.astype(np.uint8) * 255
    fits = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))
    if image.dtype != np.uint8 or not fits or 0 in image.shape:
        raise UserError(f"not an image: expected uint8 [H, W, 3] in BGR order, got {image.dtype} {list(image.shape)}")
    if image.ndim == 2 or image.shape[2] == 1:
        image = np.repeat(image.reshape(*image.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(image[:, :, :3])
