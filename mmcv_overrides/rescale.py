"""Resized images keep at least one pixel of either side.

mmcv rounds the shorter side of a resized image to the nearest pixel. For an image that is one pixel high, or a thousand
times longer than wide, that is 0: OpenCV then fails with ``inv_scale_x > 0`` and names no file.
"""

from __future__ import annotations

from mmcv_overrides.seams import Override


def scaled_size(size: tuple[int, int], scale: float | int | tuple[float, float] | tuple[int, int]) -> tuple[int, int]:
    """As mmcv's: both sides times their factor, rounded to the nearest pixel, but never below 1.

    Args:
        size: (width, height), px.
        scale: one factor, or one for each side.

    Returns:
        (width, height), px.
    """
    across, down = (scale, scale) if isinstance(scale, (float, int)) else scale
    return max(1, int(size[0] * float(across) + 0.5)), max(1, int(size[1] * float(down) + 0.5))


OVERRIDES = [
    Override("mmcv.image.geometric:_scale_size", scaled_size, "upstream resizes thin images to no pixels and fails"),
]
