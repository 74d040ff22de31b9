"""A fingerprint of a data set: are the annotations and images of two machines the same?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from fcos_train.data.check import Source
from fcos_train.data.coco_json import load_coco
from fcos_train.data.coco_layout import CocoLayout
from fcos_train.data.inside import Boundary, survey
from fcos_train.data.layout import read_splits
from fcos_train.data.spec import FaultLog, Split
from mmcv_overrides.regular_files import open_regular

BLOCK = 1 << 20  # bytes


def fingerprint(data_path: Path | str, allow_outside: Sequence[str] = ()) -> dict[str, str]:
    """The facts of a data set in any layout: annotations and images of each split.

    Annotations in one COCO file count byte by byte, those in many files (VOC, YOLO) by their content. Images are
    counted: how many the annotations list, and how many of these are there.

    Raises:
        UserError: as :func:`fcos_train.data.resolve`, as far as the annotations are concerned.
    """
    found, sources, _ = read_splits(data_path, allow_outside)
    facts = {"layout": found.layout}
    for source in sources:
        facts |= _facts(source, isinstance(found, CocoLayout))
    return facts


def fingerprint_of_files(splits: Sequence[Split], allow_outside: Sequence[str] = ()) -> dict[str, str]:
    """The same for COCO files that a config names.

    Raises:
        UserError: a file is absent or not a COCO file.
    """
    facts: dict[str, str] = {}
    for split in splits:
        log = FaultLog()
        facts |= _facts(
            Source(split, load_coco(split.ann_file, log), Boundary(split.img_dir, allow_outside), log), True
        )
    return facts


def _facts(source: Source, one_file: bool) -> dict[str, str]:
    split, raw = source.split, source.raw
    names = list(dict.fromkeys(image["file_name"] for image in raw["images"]))
    present = len(names) - len(survey(split.img_dir, names, source.boundary).absent)
    content = digest_of_file(split.ann_file) if one_file else _of_content(raw)
    return {
        f"{split.name} annotations": f"{len(raw['annotations'])} boxes, {content}",
        f"{split.name} images": f"{len(names)} listed, {present} present",
    }


def digest_of_file(file: Path) -> str:
    """Size and checksum of a file: ``5797 bytes, sha256 2c600247f7e9``."""
    found, size = hashlib.sha256(), 0
    with open_regular(file) as content:
        while block := content.read(BLOCK):
            found.update(block)
            size += len(block)
    return f"{size} bytes, sha256 {found.hexdigest()[:12]}"


def _of_content(raw: dict) -> str:
    text = json.dumps(raw, sort_keys=True, default=str)
    return f"sha256 {hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"
