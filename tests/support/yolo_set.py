"""A small data set in YOLO layout, whose labels the test writes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .tool_sets import picture

LINE = "0 0.25 0.25 0.5 0.5"  # in an image of SIZE: x 0, y 0, 32 px wide, 24 px high


def yolo_set(
    root: Path,
    labels: Mapping[str, str | None] | None = None,
    described: str | None = "train: images/train\nval: images/val\nnames: [cat, dog]\n",
) -> Path:
    """images/train/ with a.jpg and b.jpg, images/val/ with c.jpg, labels beside.

    Args:
        labels: ``train/a`` -> content of its label file, None: no such file; other images have one box of a cat.
        described: content of data.yaml; None: no such file.
    """
    for name in ("train/a", "train/b", "val/c"):
        picture(root / "images" / f"{name}.jpg")
        text = (labels or {}).get(name, LINE)
        folder = (root / "labels" / name).parent
        folder.mkdir(parents=True, exist_ok=True)
        if text is not None:
            (root / "labels" / f"{name}.txt").write_text(text)
    if described is not None:
        (root / "data.yaml").write_text(described)
    return root
