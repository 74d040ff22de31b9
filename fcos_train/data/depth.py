"""Images of 16 bits for each colour of which only the lower bits are used: they load almost black.

OpenCV keeps the upper 8 of 16 bits. Cameras with 10, 12 or 14 bits often store their values as they are, up to 1023,
4095 or 16383, which become 3, 15 or 63 of 255.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fcos_train.data.headers import Header, Headers, read_header
from fcos_train.data.images import UnreadableImage, read_image

SAMPLE = 8  # images that are decoded
DARK = 64  # of 255; 14 bits end at 63


def depth_warnings(name: str, folder: str | Path, headers: Headers) -> list[str]:
    """A warning if the images of 16 bits in a split load dark; a few of them are decoded.

    Args:
        name: of the split. folder: of its images. headers: by file name.
    """
    deep = [file for file, header in headers.items() if isinstance(header, Header) and header.deep]
    brightest = 0
    for file in deep[:: max(1, len(deep) // SAMPLE)][:SAMPLE]:
        try:
            brightest = max(brightest, int(read_image(os.path.join(folder, file)).max()))
        except UnreadableImage:
            return []  # reported elsewhere
    if not deep or brightest >= DARK:
        return []
    return [f"{name}: {len(deep)} images have {_dark(brightest)} (e.g. {deep[0]})"]


def depth_note(path: str | Path, image: np.ndarray) -> str | None:
    """The same about one image.

    Args:
        path: its file. image: u8 [H, W, 3] as it is loaded.
    """
    header = read_header(path)
    deep = isinstance(header, Header) and header.deep
    brightest = int(image.max())
    return f"{path}: the image has {_dark(brightest)}" if deep and brightest < DARK else None


def _dark(brightest: int) -> str:
    bits = 8 + max(0, brightest - 1).bit_length()  # 4095 / 256 is 15, or 16 where the reader rounds
    return (
        f"16 bits for each colour, but values of {bits} bits only: they load almost black, up to {brightest} of 255. "
        f"Multiply the values by {2 ** (16 - bits)}, or convert the images to 8 bits"
    )
