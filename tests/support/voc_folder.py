"""A small data set in VOC layout, whose annotations the test writes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path


def voc_folder(root: Path, picture: Path, xml: Callable[[int], str]) -> Path:
    """Four copies of ``picture`` with ``xml(number)`` each; 1 to 3 to train on, 4 to validate on."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for number in range(1, 5):
        shutil.copy(picture, root / "JPEGImages" / f"{number}.jpg")
        (root / "Annotations" / f"{number}.xml").write_text(xml(number))
    (root / "ImageSets/Main/train.txt").write_text("1\n2\n3\n")
    (root / "ImageSets/Main/val.txt").write_text("4\n")
    return root
