"""Image files: which exist, how large they are, which cannot be decoded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from .spec import Split


def missing(img_dir: Path, names: Iterable[str]) -> set[str]:
    """The names without a file below `img_dir`.

    Lists each folder once: one stat per file takes minutes over a network.
    """
    listed: dict[str, set[str]] = {}
    absent = set()
    for name in names:
        folder, base = os.path.split(os.path.join(img_dir, name))
        if folder not in listed:
            listed[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if base not in listed[folder]:
            absent.add(name)
    return absent


def decode(path: Path | str) -> np.ndarray | None:
    """BGR u8 [H, W, 3], turned as its EXIF tag says (as in training); None if it cannot be decoded."""
    try:
        data = np.fromfile(path, dtype=np.uint8)
        return cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except (OSError, cv2.error):
        return None


def read_size(path: Path | str) -> tuple[int, int] | None:
    """(width, height) of an image file, or None if it cannot be decoded."""
    image = decode(path)
    return None if image is None else (image.shape[1], image.shape[0])


@dataclass
class DecodeReport:
    """Images of one split that cannot be decoded, and those of another size than their annotations state."""

    name: str
    images: int
    unreadable: list[str] = field(default_factory=list)
    missized: list[str] = field(default_factory=list)

    def lines(self, limit: int = 5) -> list[str]:
        lines = [
            f"{self.name}: {self.images} images decoded, {len(self.unreadable)} unreadable, "
            f"{len(self.missized)} of another size than annotated"
        ]
        for title, found in (("unreadable", self.unreadable), ("size", self.missized)):
            lines += [f"  ! {title}: {item}" for item in found[:limit]]
            if len(found) > limit:
                lines.append(f"  ! {title}: and {len(found) - limit} more")
        return lines


def decode_split(split: Split, workers: int = 4) -> DecodeReport:
    """Open every image of a split. OpenCV releases the interpreter lock, so threads are enough."""
    images = json.loads(split.ann_file.read_text(encoding="utf-8"))["images"]
    report = DecodeReport(split.name, len(images))
    with ThreadPoolExecutor(workers) as pool:
        sizes = pool.map(lambda image: read_size(split.img_dir / image["file_name"]), images)
        for image, size in zip(images, sizes, strict=True):
            stated = (image["width"], image["height"])
            if size is None:
                report.unreadable.append(str(split.img_dir / image["file_name"]))
            elif size != stated:
                turned = ", sides swapped (EXIF orientation?)" if size == stated[::-1] else ""
                report.missized.append(
                    f"{image['file_name']}: {size[0]}x{size[1]}, annotated {stated[0]}x{stated[1]}{turned}"
                )
    return report
