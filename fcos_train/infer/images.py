"""Writes image files, and converts arrays to BGR images. Files are read by :mod:`fcos_train.data.images`."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_whole

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif", ".jp2", ".j2k", ".ppm",
    ".pgm", ".pbm", ".pnm", ".pam",
)  # fmt: skip


def write_image(path: str | Path, image: np.ndarray) -> Path:
    """Write an image u8 [H, W, 3] BGR in the format of the suffix; a link of that name is replaced, not followed.

    Raises:
        UserError: the folder cannot be written.
    """
    return write_whole(path, cv2.imencode(Path(path).suffix, image)[1].tobytes())


def as_bgr(image: np.ndarray) -> np.ndarray:
    """Convert an image array to contiguous uint8 [H, W, 3] in BGR order.

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
