"""Recognises the layout of a data folder, checks the data set and returns clean COCO annotations."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fcos_train.data import voc
from fcos_train.data.check import Source, examine
from fcos_train.data.clean import Cleaned
from fcos_train.data.coco_json import load_coco
from fcos_train.data.inside import Boundary, require_parts_inside
from fcos_train.data.spec import DataSpec, Split
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_json
from mmcv_overrides.printable import printable

# instances_train2017.json, instances_train.json, train.json, val_coco.json; not instances_minival2014.json
_ANN_NAME = re.compile(r"(?:instances[_-])?(train|val|valid|validation|test)[_-]?(\d{4})?(?:[._-]coco)?\.json", re.I)
_IN_FOLDER = ("_annotations.coco.json", "annotations.json", "labels.json")
_SPLIT_OF = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_LOOKED_FOR = """  COCO: annotations/instances_train2017.json and instances_val2017.json (any year or none)
        with train2017/ val2017/, train/ val/ or images/
  COCO: train/_annotations.coco.json and valid/_annotations.coco.json beside the images
  VOC:  JPEGImages/, Annotations/ and ImageSets/Main/ with trainval.txt and test.txt,
        or train.txt and val.txt; also below VOCdevkit/VOC2007"""
_SAMPLE = 50  # file names to look for when choosing the image folder


@dataclass(frozen=True)
class CocoFile:
    """An annotation file: `word` is its train, val, valid, ... as written, `year` is '2017' or ''."""

    path: Path
    word: str
    year: str


@dataclass(frozen=True)
class CocoLayout:
    """A folder with COCO annotations."""

    base: Path
    train: CocoFile
    val: CocoFile
    layout: str = "COCO"


@dataclass(frozen=True)
class VocLayout:
    """A folder in PASCAL VOC layout; `train` and `val` are lists of image names."""

    base: Path
    train: Path
    val: Path
    layout: str = "VOC"


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
        sources, note = voc.load(found.base, [("train", found.train), ("val", found.val)], boundary)
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
        f"no data set recognised in {root}. Looked for\n{_LOOKED_FOR}\nand found {_contents(root)}" + _hint(root)
    )


def _folders_below(root: Path) -> list[Path]:
    children = sorted(Path(e.path) for e in os.scandir(root) if e.is_dir())
    grand = sorted(p for child in children if child.name == "VOCdevkit" for p in child.iterdir() if p.is_dir())
    return children + grand


def _detect(base: Path) -> CocoLayout | VocLayout | None:
    return _detect_voc(base) or _detect_coco(base)


def _detect_voc(base: Path) -> VocLayout | None:
    main = base / "ImageSets" / "Main"
    if not all(folder.is_dir() for folder in (base / "JPEGImages", base / "Annotations", main)):
        return None
    lists = {name: main / f"{name}.txt" for name in ("trainval", "test", "train", "val")}
    annotated = {name for name, path in lists.items() if path.is_file() and _has_annotations(base, path)}
    for train, val in (("trainval", "test"), ("train", "val"), ("train", "test")):
        if train in annotated and val in annotated:
            return VocLayout(base, lists[train], lists[val])
    raise UserError(
        f"{base} is in VOC layout, but ImageSets/Main/ has neither trainval.txt and test.txt nor train.txt "
        f"and val.txt whose images are annotated; found {_contents(main)}"
    )


def _has_annotations(base: Path, list_file: Path) -> bool:
    """Whether images of a list are annotated; those of PASCAL's newer test lists are not."""
    return any((base / "Annotations" / f"{name}.xml").is_file() for name in voc.read_ids(list_file)[:_SAMPLE])


def _detect_coco(base: Path) -> CocoLayout | None:
    files = _annotation_files(base)
    by_split = {s: [f for f in files if _SPLIT_OF[f.word.lower()] == s] for s in ("train", "val", "test")}
    if not by_split["train"]:
        return None
    if not by_split["val"] and not by_split["test"]:
        raise UserError(
            f"{base} has training annotations ({by_split['train'][0].path.name}) but none for validation, "
            f"like instances_val2017.json or valid/_annotations.coco.json; found {_contents(base)}"
        )
    # The published order of preference: COCO 2017, then the newest year, then files without a year.
    train = max(by_split["train"], key=lambda f: (f.year == "2017", f.year))
    val = max(by_split["val"] or by_split["test"], key=lambda f: (f.year == train.year, f.year))
    return CocoLayout(base, train, val)


def _annotation_files(base: Path) -> list[CocoFile]:
    found = []
    for folder in (base / "annotations", base / "Annotations", base):
        for path in sorted(folder.glob("*.json")):
            match = _ANN_NAME.fullmatch(path.name)
            if match:
                found.append(CocoFile(path, match[1], match[2] or ""))
        if found:
            return found
    for word in _SPLIT_OF:
        found += [CocoFile(base / word / name, word, "") for name in _IN_FOLDER if (base / word / name).is_file()]
    return found


def _coco_source(layout: CocoLayout, name: str, file: CocoFile, boundary: Boundary) -> Source:
    raw = load_coco(file.path)
    return Source(Split(name, file.path, _image_dir(layout.base, file, raw)), raw, boundary)


def _image_dir(base: Path, file: CocoFile, raw: dict) -> Path:
    """The folder in which most of a sample of the file names exist."""
    word, dated = file.word, f"{file.word}{file.year}"
    places = (
        "{d}",
        "images/{d}",
        "{w}",
        "images/{w}",
        "{d}/images",
        "{w}/images",
        "{w}/data",
        "images",
        "data",
        ".",
    )
    candidates = dict.fromkeys(base / place.format(d=dated, w=word) for place in places)
    folders = [folder for folder in candidates if folder.is_dir()]
    step = max(1, len(raw["images"]) // _SAMPLE)
    sample = [image["file_name"] for image in raw["images"][::step]]
    score = {folder: sum(os.path.exists(folder / name) for name in sample) for folder in folders}
    best = max(folders, key=lambda folder: score[folder])
    if sample and not score[best]:
        tried = ", ".join(str(folder) for folder in folders)
        raise UserError(f"no image of {file.path} was found, e.g. {printable(sample[0])[:300]}; looked in {tried}")
    return best


def _contents(folder: Path, limit: int = 12) -> str:
    names = sorted(entry.name + "/" * entry.is_dir() for entry in os.scandir(folder))
    more = f", ... {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(printable, names[:limit])) + more if names else "nothing"


def _hint(root: Path) -> str:
    if (root / "labels").is_dir() or any(root.glob("*.yaml")):
        return "\nThis looks like YOLO labels, which are not read: export the set as COCO json or PASCAL VOC"
    return ""
