"""Recognises the layout of a data folder, checks the data set and returns clean COCO annotations."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fcos_train.data import voc, yolo
from fcos_train.data.archive import unpacked
from fcos_train.data.check import Source, examine
from fcos_train.data.clean import Cleaned
from fcos_train.data.coco_json import load_coco
from fcos_train.data.coco_layout import LET_CHOOSE, CocoFile, CocoLayout, contents, find_coco, image_dir, json_names
from fcos_train.data.inside import Boundary, require_parts_inside
from fcos_train.data.spec import DataSpec, FaultLog, Split
from fcos_train.data.voc_layout import VocLayout, find_voc, find_voc_like, xml_folders
from fcos_train.data.yolo_layout import YAML, YoloLayout, find_yolo, of_yaml
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_json

_LOOKED_FOR = """  COCO: annotations/instances_train2017.json and instances_val2017.json (any year or none; or names
        with the words train and val) with train2017/ val2017/, train/ val/ or images/
  COCO: train/_annotations.coco.json and valid/_annotations.coco.json beside the images
  VOC:  JPEGImages/, Annotations/ and ImageSets/Main/ with trainval.txt and test.txt,
        or train.txt and val.txt; also below VOCdevkit/VOC2007
  VOC:  train/ and valid/ with XML files beside the images
  YOLO: data.yaml with train, val and names; or classes.txt or obj.names with images/train/ and images/val/,
        train/images/ and valid/images/, or lists train.txt and valid.txt"""

Layout = CocoLayout | VocLayout | YoloLayout


def resolve(
    data_path: Path | str,
    cache_dir: Path | str,
    classes: Sequence[str] | None = None,
    allow_outside: Sequence[str] = (),
    turned: bool = True,
    test: bool = False,
) -> DataSpec:
    """Recognise, check and if necessary convert the data set in a folder or an archive.

    Args:
        data_path: a folder in COCO, VOC or YOLO layout, or one that contains exactly one such folder; the data.yaml of
            a YOLO data set; or an archive of such a folder, see :func:`fcos_train.data.archive.unpacked`.
        cache_dir: folder for corrected or converted annotations (written atomically, so that several processes may do
            so at once); annotations without faults are used in place.
        classes: class names to use, in this order; None: all, by category id (VOC: by name).
        allow_outside: folders that the data set may be read from beside its own. All other targets of its paths and
            links are refused; the folder itself may be a link.
        turned: whether images are loaded turned by their EXIF orientation.
        test: also read the test split, if there is one.

    Raises:
        UserError: the folder is absent, empty or of an unknown layout, it leads outside, or the check found nothing to
            train on.
    """
    found, sources, notes = read_splits(data_path, allow_outside, turned, test)
    report, cleaned = examine(sources, classes, turned)
    report.layout = found.layout
    report.notes[:0] = notes
    converted = not isinstance(found, CocoLayout)
    placed = {s.split.name: _place(s.split, c, Path(cache_dir), converted) for s, c in zip(sources, cleaned)}
    train, val = placed["train"], placed["val"]
    tested = val if test and validates_on_test(found) else placed.get("test")
    return DataSpec(found.layout, report.classes, train, val, report, tested)


def read_splits(
    data_path: Path | str, allow_outside: Sequence[str] = (), turned: bool = True, test: bool = False
) -> tuple[Layout, list[Source], list[str]]:
    """The layout of a data set, its splits before the check, and notes; arguments as of :func:`resolve`."""
    root, notes = unpacked(Path(data_path).expanduser())
    try:
        found, where = _find(root)
    except PermissionError as error:
        raise UserError(f"data path {root} cannot be read: {error.strerror} ({error.filename})") from None
    boundary = Boundary(root if root.is_dir() else root.parent, allow_outside)
    sources, how = _sources(found, boundary, turned, test)
    return found, sources, [*notes, *where, *how, *_about_test(found, test)]


def _sources(found: Layout, boundary: Boundary, turned: bool, test: bool) -> tuple[list[Source], list[str]]:
    """The splits of a layout before the check, and notes on how they were read."""
    third = test and has_test(found)
    if isinstance(found, VocLayout):
        xmls = [("train", found.train), ("val", found.val)]
        xmls += [("test", found.test)] if third and found.test is not None else []
        sources, note = voc.load(xmls, boundary, found.base)
        return sources, [note]
    if isinstance(found, YoloLayout):
        labels = [("train", found.train), ("val", found.val)]
        labels += [("test", found.test)] if third and found.test is not None else []
        return yolo.load(found, labels, boundary, turned), []
    files = [("train", found.train), ("val", found.val)]
    files += [("test", found.test)] if third and found.test is not None else []
    sources = [_coco_source(found, name, file, boundary) for name, file in files]
    require_parts_inside((part for s in sources for part in (s.split.ann_file, s.split.img_dir)), boundary)
    return sources, []


def validates_on_test(found: Layout) -> bool:
    """Whether there is no other validation split than the test split."""
    return found.val.split == "test" if isinstance(found, CocoLayout) else found.test == found.val


def has_test(found: Layout) -> bool:
    """Whether there is a test split beside that of validation."""
    if isinstance(found, CocoLayout):
        return bool(found.tests)
    return found.test is not None and found.test != found.val


def _about_test(found: Layout, read: bool) -> list[str]:
    if validates_on_test(found):
        return ["the test split is also the validation split"]
    if has_test(found) and not read:
        return ["the test split is not read for training; fcos-train eval --split test evaluates it"]
    return []


def _place(split: Split, cleaned: Cleaned, cache_dir: Path, converted: bool) -> Split:
    """The split to train on: the user's file if it has no faults, otherwise a clean copy."""
    if not (converted or cleaned.changed):
        return split
    path = write_json(cache_dir / f"instances_{split.name}.json", cleaned.data)
    cleaned.report.ann_file = path
    return replace(split, ann_file=path)


def _find(root: Path) -> tuple[Layout, list[str]]:
    """The layout of `root`, or of the one folder below it that has a layout, with a note in this case."""
    if not root.exists():
        raise UserError(
            f"data path {root} does not exist (looked in {Path.cwd()})"
            if not root.is_absolute()
            else f"data path {root} does not exist"
        )
    if root.suffix.lower() in YAML and root.is_file():
        return of_yaml(root), []
    if not root.is_dir():
        raise UserError(
            f"data path {root} is a file; give the folder that contains images and annotations, "
            "the data.yaml of a YOLO data set, or a .zip or .tar of the folder"
        )
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


def has_splits(root: Path) -> bool:
    """Whether a folder, or one below it, holds a data set that tells training from validation."""
    try:
        return bool(_find(root))
    except UserError:
        return False


def _folders_below(root: Path) -> list[Path]:
    children = sorted(Path(e.path) for e in os.scandir(root) if e.is_dir())
    grand = sorted(p for child in children if child.name == "VOCdevkit" for p in child.iterdir() if p.is_dir())
    return children + grand


def _detect(base: Path) -> Layout | None:
    return find_voc(base) or find_coco(base) or find_voc_like(base) or find_yolo(base)


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
            f"(annotation tools export them as subsets); the images may stay in one folder{LET_CHOOSE}"
        )
    if xmls:
        hints.append(
            f"XML files: {xmls}. If they are VOC annotations, they lack a split: write the names of the images to "
            "train on and of those to validate on into ImageSets/Main/train.txt and ImageSets/Main/val.txt, beside "
            f"JPEGImages/ and Annotations/, or put them into train/ and valid/{LET_CHOOSE}"
        )
    if (root / "labels").is_dir() or any(root.glob("*.yaml")):
        hints.append(
            "If these are YOLO labels, they lack a split: write data.yaml with train and val (folders of images, or "
            f"lists train.txt and val.txt) and names{LET_CHOOSE}"
        )
    return "".join(f"\n{hint}" for hint in hints)
