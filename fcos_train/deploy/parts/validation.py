"""The validation images of a data set and their annotations, for the evaluation of an exported model."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from fcos_train.data import resolve
from mmcv_overrides.files import write_whole
from mmcv_overrides.regular_files import read_json


def validation_set(
    data_path: str | Path,
    classes: Sequence[str],
    folder: Path,
    limit: int | None = None,
    allow_outside: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> tuple[list[Path], Path]:
    """The images and their COCO annotation file, both up to the limit; prints what was left out or repaired.

    Args:
        classes: of the model. folder: for annotations that had to be changed.
        limit: number of images, None: all. allow_outside: folders outside the data set that may be read.
        say: prints a line.

    Raises:
        UserError: no such data set, a faulty one, or one with other classes.
    """
    spec = resolve(data_path, folder, tuple(classes), allow_outside)
    split = spec.val
    for fault in spec.report.splits["val"].faults():
        say(fault)
    data = read_json(split.ann_file, "annotation file")
    entries, path = data["images"], split.ann_file
    if limit is not None and limit < len(entries):
        entries = entries[:limit]
        kept = {entry["id"] for entry in entries}
        boxes = [box for box in data["annotations"] if box["image_id"] in kept]
        content = json.dumps({**data, "images": entries, "annotations": boxes})
        path = write_whole(folder / f"first_{limit}.json", content)
    return [split.img_dir / entry["file_name"] for entry in entries], path
