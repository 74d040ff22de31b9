"""Recognises the layout of a data folder, checks the data set and returns clean COCO annotations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fcos_train.data import voc
from fcos_train.data.check import Source, examine
from fcos_train.data.clean import Cleaned
from fcos_train.data.coco_json import load_coco
from fcos_train.data.coco_layout import CocoFile, CocoLayout, contents, find_coco, image_dir, json_names
from fcos_train.data.inside import Boundary, require_parts_inside
from fcos_train.data.spec import DataSpec, FaultLog, Split
from fcos_train.data.voc_layout import VocLayout, find_voc, find_voc_like, xml_folders
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_json

_LOOKED_FOR = """  COCO: annotations/instances_train2017.json and instances_val2017.json (any year or none; or names
        with the words train and val) with train2017/ val2017/, train/ val/ or images/
  COCO: train/_annotations.coco.json and valid/_annotations.coco.json beside the images
  VOC:  JPEGImages/, Annotations/ and ImageSets/Main/ with trainval.txt and test.txt,
        or train.txt and val.txt; also below VOCdevkit/VOC2007
  VOC:  train/ and valid/ with XML files beside the images"""


def resolve(
    data_path: Path | str,
    cache_dir: Path | str,
    classes: Sequence[str] | None = None,
    allow_outside: Sequence[str] = (),
    turned: bool = True,
) -> DataSpec:
    """Recognise, check and if necessary convert the data set in a folder.

    Args:
        data_path: a folder in COCO or VOC layout, or one that contains exactly one such folder.
        cache_dir: folder for corrected or converted annotations (written atomically, so that several processes may do
            so at once); annotations without faults are used in place.
        classes: class names to use, in this order; None: all, by category id (VOC: by name).
        allow_outside: folders that the data set may be read from beside its own. All other targets of its paths and
            links are refused; the folder itself may be a link.
        turned: whether images are loaded turned by their EXIF orientation.

    Raises:
        UserError: the folder is absent, empty or of an unknown layout, it leads outside, or the check found nothing to
            train on.
    """
    root = Path(data_path).expanduser()
    try:
        found, notes = _find(root)
    except PermissionError as error:
        raise UserError(f"data path {root} cannot be read: {error.strerror} ({error.filename})") from None
    boundary = Boundary(root, allow_outside)
    if isinstance(found, VocLayout):
        sources, note = voc.load([("train", found.train), ("val", found.val)], boundary)
        notes.append(note)
    else:
        sources = [
            _coco_source(found, name, file, boundary) for name, file in (("train", found.train), ("val", found.val))
        ]
        require_parts_inside((part for s in sources for part in (s.split.ann_file, s.split.img_dir)), boundary)
    report, cleaned = examine(sources, classes, turned)
    report.layout = found.layout
    report.notes[:0] = notes
    converted = isinstance(found, VocLayout)
    train, val = (_place(s.split, c, Path(cache_dir), converted) for s, c in zip(sources, cleaned, strict=True))
    return DataSpec(found.layout, report.classes, train, val, report)


def _place(split: Split, cleaned: Cleaned, cache_dir: Path, converted: bool) -> Split:
    """The split to train on: the user's file if it has no faults, otherwise a clean copy."""
    if not (converted or cleaned.changed):
        return split
    path = write_json(cache_dir / f"instances_{split.name}.json", cleaned.data)
    cleaned.report.ann_file = path
    return replace(split, ann_file=path)


def _find(root: Path) -> tuple[CocoLayout | VocLayout, list[str]]:
    """The layout of `root`, or of the one folder below it that has a layout, with a note in this case."""
    if not root.exists():
        raise UserError(
            f"data path {root} does not exist (looked in {Path.cwd()})"
            if not root.is_absolute()
            else f"data path {root} does not exist"
        )
    if not root.is_dir():
        raise UserError(f"data path {root} is a file; give the folder that contains images and annotations")
    if not any(root.iterdir()):
        raise UserError(f"data path {root} is an empty folder")
    found = _detect(root)
    if found:
        return found, []
    below = [hit for folder in _folders_below(root) if (hit := _detect(folder))]
    if len(below) == 1:
        return below[0], [f"data set found in {below[0].base}"]
    if below:
        raise UserError(
            f"{root} contains several data sets; give one of them: " + ", ".join(str(b.base) for b in below)
        )
    raise UserError(
        f"no data set recognised in {root}. Looked for\n{_LOOKED_FOR}\nand found {contents(root)}{_hint(root)}"
    )


def _folders_below(root: Path) -> list[Path]:
    children = sorted(Path(e.path) for e in os.scandir(root) if e.is_dir())
    grand = sorted(p for child in children if child.name == "VOCdevkit" for p in child.iterdir() if p.is_dir())
    return children + grand


def _detect(base: Path) -> CocoLayout | VocLayout | None:
    return find_voc(base) or find_coco(base) or find_voc_like(base)


def _coco_source(layout: CocoLayout, name: str, file: CocoFile, boundary: Boundary) -> Source:
    log = FaultLog()
    raw = load_coco(file.path, log)
    return Source(Split(name, file.path, image_dir(layout.base, file, raw)), raw, boundary, log)


def _hint(root: Path) -> str:
    """What there is that looks like annotations, and what it lacks."""
    hints = []
    jsons, xmls = json_names(root), xml_folders(root)
    if jsons:
        hints.append(
            f"JSON files: {jsons}. If they are COCO annotations, they lack a split: write the images to train on and "
            "those to validate on into two files, annotations/instances_train.json and annotations/instances_val.json "
            "(annotation tools export them as subsets); the images may stay in one folder"
        )
    if xmls:
        hints.append(
            f"XML files: {xmls}. If they are VOC annotations, they lack a split: write the names of the images to "
            "train on and of those to validate on into ImageSets/Main/train.txt and ImageSets/Main/val.txt, beside "
            "JPEGImages/ and Annotations/, or put them into train/ and valid/"
        )
    if (root / "labels").is_dir() or any(root.glob("*.yaml")):
        hints.append("This looks like YOLO labels, which are not read: export the set as COCO json or PASCAL VOC")
    return "".join(f"\n{hint}" for hint in hints)
