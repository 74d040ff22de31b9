"""The one reader of image files, with its limits, and the search for files of a split that cannot be decoded."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from fcos_train.data.image_header import FORMATS, header_size
from fcos_train.data.image_tags import what_else
from fcos_train.data.spec import Split
from fcos_train.progress import track
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable
from mmcv_overrides.regular_files import read_json, read_regular

# 178,956,970 px, 0.5 GB decoded; Pillow's limit too.
MAX_PIXELS = 2 * (1024**3 // 4 // 3)
MAX_BYTES = 1 << 30
PIXELS_VARIABLE = "FCOS_MAX_IMAGE_PIXELS"


class UnreadableImage(UserError):
    """An image that is absent, not a regular file, too large, or cannot be decoded; the message names it.

    torch raises an exception of a loader worker again as `type(text of the whole traceback)`; users see only its end.
    """

    reason = ""  # without the name of the file

    def __init__(self, message: str) -> None:
        super().__init__(message.rsplit("UnreadableImage: ", 1)[-1].strip())

    @classmethod
    def of(cls, path: str | Path, reason: str) -> UnreadableImage:
        """The error for a file and a reason."""
        error = cls(f"cannot read image {printable(path)}: {reason}")
        error.reason = reason
        return error


def max_pixels() -> int:
    """The largest image that is decoded, in px (width x height).

    Raises:
        UserError: the environment variable for it is not a whole number above 0.
    """
    text = os.environ.get(PIXELS_VARIABLE)
    if text is None:
        return MAX_PIXELS
    if not text.isdecimal() or not int(text):
        raise UserError(f"{PIXELS_VARIABLE}={printable(text)}: give a whole number of pixels above 0")
    return int(text)


def image_bytes(path: str | Path) -> bytes:
    """The content of an image file whose size, by its header, is within the limits. Nothing is decoded.

    Raises:
        UnreadableImage: absent, not a regular file, of an unsupported format, or too large.
    """
    try:
        data = read_regular(path, MAX_BYTES)
    except FileNotFoundError:
        raise UnreadableImage.of(path, "the file is absent") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise UnreadableImage.of(path, getattr(error, "strerror", None) or str(error)) from None
    require_limits(data, path)
    return data


def require_limits(data: bytes, path: str | Path) -> None:
    """Refuse the content of an image file of an unknown format or, by its header, too large to decode.

    Raises:
        UnreadableImage: the message names `path`.
    """
    size = header_size(data)
    reason = undecodable(data, len(data)) if size is None else too_large(size)
    if reason is not None:
        raise UnreadableImage.of(path, reason)


def undecodable(data: bytes, length: int) -> str:
    """The reason to give for a file of an unknown format.

    Args:
        data: its beginning. length: of the file, bytes.
    """
    what = what_else(data) if data else "an empty file (0 bytes)"
    return "it cannot be decoded" + (f": it is {what}" if what else f" ({length} bytes; {FORMATS} are read)")


def too_large(size: tuple[int, int]) -> str | None:
    """The reason to give for an image of more pixels than are decoded; None for a smaller one.

    Args:
        size: (width, height), px.
    """
    if size[0] * size[1] <= (limit := max_pixels()):
        return None
    return (
        f"its {size[0]} x {size[1]} pixels are more than the limit of {limit:,}. If it is not a "
        f"decompression bomb, raise the limit: {PIXELS_VARIABLE}={size[0] * size[1]}"
    )


def read_image(path: str | Path) -> np.ndarray:
    """An image file as u8 [H, W, 3] in BGR order, rotated by EXIF as in training, gray and alpha converted.

    Raises:
        UnreadableImage: see :func:`image_bytes`, or OpenCV cannot decode it.
    """
    return decode_image(image_bytes(path), path)


def decode_image(data: bytes, name: str | Path) -> np.ndarray:
    """The content of an image file, whose size is within the limits, as :func:`read_image` returns it.

    Args:
        name: of the file, for messages.

    Raises:
        UnreadableImage: OpenCV cannot decode it.
    """
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise UnreadableImage.of(name, f"it cannot be decoded ({len(data)} bytes)")
    return image


def try_read_image(path: str | Path) -> np.ndarray | UnreadableImage:
    """:func:`read_image`, but returns the fault instead of raising it."""
    try:
        return read_image(path)
    except UnreadableImage as fault:
        return fault


@dataclass
class DecodeReport:
    """Images of one split that cannot be decoded or have another size than in the annotations."""

    name: str
    images: int
    unreadable: list[str] = field(default_factory=list)
    missized: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)  # one for each of `unreadable`

    def lines(self, limit: int = 5) -> list[str]:
        """The report for people, with up to `limit` examples of each kind."""
        lines = [
            f"{self.name}: {self.images} images decoded, {len(self.unreadable)} unreadable, "
            f"{len(self.missized)} of another size than annotated"
        ]
        for title, found in (("unreadable", self.reasons), ("size", self.missized)):
            lines += [f"  ! {title}: {printable(item)}" for item in found[:limit]]
            if len(found) > limit:
                lines.append(f"  ! {title}: and {len(found) - limit} more")
        return lines


def decode_split(split: Split, workers: int = 4) -> DecodeReport:
    """Decode every image of a split, in threads: OpenCV releases the interpreter lock."""
    images = read_json(split.ann_file, "annotation file")["images"]
    report = DecodeReport(split.name, len(images))
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(lambda image: _size_or_fault(split.img_dir / image["file_name"]), images)
        for image, size in track(zip(images, found, strict=True), f"decoding {split.name} images", len(images)):
            stated = (image["width"], image["height"])
            if isinstance(size, UnreadableImage):
                report.unreadable.append(str(split.img_dir / image["file_name"]))
                report.reasons.append(str(size))
            elif size != stated:
                turned = ", sides swapped (EXIF orientation?)" if size == stated[::-1] else ""
                report.missized.append(
                    f"{image['file_name']}: {size[0]}x{size[1]}, annotated {stated[0]}x{stated[1]}{turned}"
                )
    return report


def _size_or_fault(path: Path) -> tuple[int, int] | UnreadableImage:
    image = try_read_image(path)
    return image if isinstance(image, UnreadableImage) else (image.shape[1], image.shape[0])
