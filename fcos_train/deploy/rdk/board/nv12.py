"""Images as the cameras and the BPU of the boards have them: NV12, a plane of luma and one of interleaved chroma.

Shape symbols: H, W height and width of the input of the network, both even.
"""

from __future__ import annotations

import cv2
import numpy as np


class BoardError(ValueError):
    """What a user must put right: a file, an option, or a model that does not fit."""


def require_even(height: int, width: int) -> None:
    """Refuse a size that NV12 cannot have.

    Raises:
        BoardError: an odd side; a chroma sample covers two by two pixels.
    """
    if height % 2 or width % 2:
        raise BoardError(f"NV12 needs an even height and width, not {height} x {width}")


def to_nv12(image: np.ndarray) -> np.ndarray:
    """Pack an image u8 [H, W, 3] BGR: u8 [H * W * 3 / 2], luma first, then U and V by turns (BT.601, limited range).

    Raises:
        BoardError: an odd side.
    """
    height, width = image.shape[:2]
    require_even(height, width)
    planar = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420).reshape(-1)
    packed = np.empty_like(planar)
    area = height * width
    packed[:area] = planar[:area]
    packed[area:] = planar[area:].reshape(2, area // 4).T.reshape(-1)
    return packed


def to_yuv444(packed: np.ndarray, height: int, width: int) -> np.ndarray:
    """Give every pixel its Y, U and V: u8 [H, W, 3]; a chroma sample is repeated for its four pixels."""
    _require_length(packed, height, width)
    area = height * width
    chroma = packed[area:].reshape(height // 2, width // 2, 2)
    full = np.empty((height, width, 3), np.uint8)
    full[:, :, 0] = packed[:area].reshape(height, width)
    full[:, :, 1:] = chroma.repeat(2, 0).repeat(2, 1)
    return full


def to_bgr(packed: np.ndarray, height: int, width: int) -> np.ndarray:
    """Unpack to u8 [H, W, 3] BGR."""
    _require_length(packed, height, width)
    return cv2.cvtColor(packed.reshape(height * 3 // 2, width), cv2.COLOR_YUV2BGR_NV12)


def _require_length(packed: np.ndarray, height: int, width: int) -> None:
    require_even(height, width)
    if packed.size != height * width * 3 // 2:
        raise BoardError(f"an NV12 image of {height} x {width} has {height * width * 3 // 2} bytes, not {packed.size}")
