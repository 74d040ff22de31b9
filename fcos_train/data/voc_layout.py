"""Finds VOC annotations: the folders of XML files and images, and which images each split has.

A list of a split has a name a line. Tools also write the image with its suffix, whole paths, a second column (the flag
of a class list, the annotation file), or a byte order mark. What counts is which XML file a line means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from fcos_train.data.coco_layout import contents, existing
from fcos_train.data.file_index import SPLIT_WORDS, FileIndex, files_below, stem
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable
from mmcv_overrides.regular_files import read_text

LISTS = (("trainval", "test"), ("train", "val"), ("train", "valid"), ("train", "test"))
_FLAG = re.compile(r"\s+[+-]?[01]$")
IMAGE_FOLDERS = ("JPEGImages", "images", "imgs", "img")
_SAMPLE = 50  # names of a list to look for


@dataclass(frozen=True)
class VocSplit:
    """The images of one split.

    Attributes:
        source: the list of the split, or the folder of its XML files.
        images: the folder of the images.
        annotations: the folder of the XML files.
        files: XML files, relative to `annotations`.
    """

    source: Path
    images: Path
    annotations: Path
    files: tuple[str, ...]


@dataclass(frozen=True)
class VocLayout:
    """A folder with VOC annotations; `test` is `val` where the test split validates."""

    base: Path
    train: VocSplit
    val: VocSplit
    test: VocSplit | None = None
    layout: str = "VOC"


def find_voc(base: Path) -> VocLayout | None:
    """A folder in PASCAL's own layout.

    Raises:
        UserError: it has the folders, but no lists of annotated images for training and validation.
    """
    main = base / "ImageSets" / "Main"
    if not all(folder.is_dir() for folder in (base / "JPEGImages", base / "Annotations", main)):
        return None
    found, unusable = _by_lists(base, base / "JPEGImages", base / "Annotations", main)
    if found is None and any((base / "Annotations").glob("*.json")):
        return None  # COCO files in a folder of that name
    if found is None:
        raise UserError(
            f"{base} is in VOC layout, but ImageSets/Main/ has neither trainval.txt and test.txt nor train.txt "
            f"and val.txt whose images are annotated; found {contents(main)}{unusable}"
        )
    return found


def find_voc_like(base: Path) -> VocLayout | None:
    """Images and XML files in another layout, if it tells training from validation.

    Either lists beside the folders of images and annotations, or folders for each split (train/ and valid/) with XML
    files beside the images or in annotations/.
    """
    places = existing(base, ("ImageSets/Main", "ImageSets", ""))
    for xmls, images, lists in product(
        existing(base, ("Annotations", "xml", "xmls")), existing(base, IMAGE_FOLDERS), places
    ):
        found = _by_lists(base, images, xmls, lists)[0]
        if found is not None:
            return found
    parts = {}
    for split, words in SPLIT_WORDS.items():
        candidates = (_split_folder(base, word) for word in words)
        parts[split] = next((part for part in candidates if part is not None), None)
    train, val, test = parts["train"], parts["val"] or parts["test"], parts["test"]
    return VocLayout(base, train, val, test) if train is not None and val is not None else None


def _by_lists(base: Path, images: Path, annotations: Path, place: Path) -> tuple[VocLayout | None, str]:
    """The layout that lists in `place` give, and why none could be used.

    Images of PASCAL's newer test lists are not annotated.
    """
    lists = {path.stem.lower(): path for path in sorted(place.glob("*.txt")) if path.is_file()}
    wanted = {name for pair in LISTS for name in pair} & lists.keys()
    if not wanted:
        return None, ""
    index = xml_index(annotations)
    files = {name: read_list(lists[name], index) for name in wanted}
    annotated = {name for name in wanted if any((annotations / file).is_file() for file in files[name][:_SAMPLE])}
    for train, val in LISTS:
        if train in annotated and val in annotated:
            parts = {n: VocSplit(lists[n], images, annotations, tuple(files[n])) for n in annotated}
            return VocLayout(base, parts[train], parts[val], parts.get("test")), ""
    lacking = [f"{lists[n].name}: no {printable(files[n][0])[:100]}" for n in sorted(wanted - annotated) if files[n]]
    return None, f" ({'; '.join(lacking)} in {annotations.name}/)" if lacking else ""


def xml_index(folder: Path) -> FileIndex:
    """The XML files below a folder, by their stems."""
    return FileIndex(xml_files(folder), by_stem=True)


def read_list(list_file: Path, index: FileIndex) -> list[str]:
    """The XML files that the lines of a list mean; for a line that means none, the one that it should mean.

    Raises:
        UserError: the list cannot be read.
    """
    lines = filter(None, map(str.strip, read_text(list_file, "list of images").splitlines()))
    return [_meant(line, index) for line in lines]


def _meant(line: str, index: FileIndex) -> str:
    for text in (*_readings(line), *_readings(_as_gbk(line))):
        found = index.find(stem(text)) or index.find(text)
        if found is not None:
            return found
    return stem(_FLAG.sub("", line)) + ".xml"


def _as_gbk(line: str) -> str:
    """The same bytes read as GBK: some common words of it, such as that for picture, are letters in UTF-8 as well."""
    return line if line.isascii() else line.encode("utf-8", "replace").decode("gb18030", "replace")


def _readings(line: str) -> Iterator[str]:
    """The whole line, since names have blanks; without the flag of a class list; its first column, if it is a file."""
    yield line
    if _FLAG.search(line):
        yield _FLAG.sub("", line)
    first = line.split()[0]
    if first != line and stem(first) != first:
        yield first


def _split_folder(base: Path, word: str) -> VocSplit | None:
    """XML files of one split: train/*.xml, train/annotations/*.xml or annotations/train/*.xml, with their images."""
    beside = [(folder, folder) for folder in existing(base, (word,))]
    inside = [
        (annotations, images)
        for folder in existing(base, (word,))
        for annotations in existing(folder, ("annotations", "xml", "xmls", "labels"))
        for images in [*existing(folder, IMAGE_FOLDERS), folder]
    ]
    parallel = [
        (annotations, images)
        for annotations in existing(base, (f"annotations/{word}", f"xml/{word}", f"xmls/{word}"))
        for images in existing(base, [f"{folder}/{word}" for folder in IMAGE_FOLDERS] + [word])
    ]
    for xmls, images in [*inside, *parallel, *beside]:
        found = xml_files(xmls)
        if found:
            return VocSplit(xmls, images, xmls, tuple(found))
    return None


def xml_folders(base: Path) -> str:
    """The folders that hold XML files, and how many, for a message."""
    places = existing(base, ("annotations", "xml", "xmls", "train", "valid", "val", "test", *IMAGE_FOLDERS))
    counts = {f"{place.name}/": len(xml_files(place)) for place in places}
    counts["the folder itself"] = sum(1 for _ in base.glob("*.xml"))
    return ", ".join(f"{printable(place)} ({count})" for place, count in counts.items() if count)


def labelmap(base: Path) -> tuple[Path, list[str]] | None:
    """CVAT's file of class names with colours, and the names in their order; None if there is none.

    Raises:
        UserError: it cannot be read.
    """
    path = base / "labelmap.txt"
    if not path.is_file():
        return None
    lines = [line.strip() for line in read_text(path, "list of class names").splitlines()]
    names = [line.rsplit(":", 3)[0].strip() for line in lines if line and not line.startswith("#")]
    return path, list(dict.fromkeys(filter(None, names)))


def xml_files(folder: Path) -> list[str]:
    """The XML files below a folder, relative to it."""
    return [path for path in files_below(folder) if path.lower().endswith(".xml")]
