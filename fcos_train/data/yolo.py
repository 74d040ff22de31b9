"""YOLO labels (a text file for each image) as COCO dicts.

Fractions become px of the image as it is loaded, which is turned by its EXIF orientation; the size is read from its
header. Coordinates are rounded to 1e-9 px: a box in px that was written with enough digits comes back exact.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fcos_train.data.check import Source
from fcos_train.data.coco_fields import shown
from fcos_train.data.file_index import IMAGE_SUFFIXES, FileIndex, files_below
from fcos_train.data.headers import Header, read_headers
from fcos_train.data.inside import Boundary, require_inside, require_parts_inside, survey
from fcos_train.data.spec import FaultLog, Split
from fcos_train.data.yolo_labels import FAULTS, Box, Tally, read_labels
from fcos_train.data.yolo_layout import YoloLayout, YoloSplit, is_label, label_folders, list_lines
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import require_names

DIGITS = 9  # decimals of px
_JPEG = (".jpg", ".jpeg")


@dataclass
class _Images:
    """The images of a split.

    Attributes:
        folder: that the names are relative to. names: of the images, in their order.
        whole: folders all of whose images belong to the split.
    """

    folder: Path
    names: list[str]
    whole: set[str] = field(default_factory=set)


def load(
    layout: YoloLayout, splits: Sequence[tuple[str, YoloSplit]], boundary: Boundary, turned: bool = True
) -> list[Source]:
    """Read the splits of a YOLO data set.

    Args:
        layout: where it is, and its class names.
        splits: their names and parts.
        boundary: what may be read.
        turned: whether images are loaded turned by their EXIF orientation.

    Returns:
        a Source per split; categories are all class names, from id 1.

    Raises:
        UserError: files outside the boundary, class names with control characters, or numbers that are no fractions.
    """
    require_parts_inside([layout.file, *(place for _, split in splits for place in split.places)], boundary)
    require_names(map(str, layout.names.values()), str(layout.file))
    labels = _Labels(layout, boundary)
    return [_source(layout, name, split, labels, turned) for name, split in splits]


def _source(layout: YoloLayout, name: str, split: YoloSplit, labels: _Labels, turned: bool) -> Source:
    log, boundary = FaultLog(), labels.boundary
    for index, class_name in layout.names.items():
        if not isinstance(class_name, str):
            log.add("number_names", f"class {index}: {shown(class_name)}")
    images = _images(layout.base, split, log)
    there = survey(images.folder, images.names, boundary)
    require_inside([(split.source, there, boundary)])
    headers = read_headers(images.folder, [n for n in images.names if n not in there.absent], turned)
    objects = labels.read(images, log, str(split.source), name)
    categories = [{"id": index + 1, "name": str(text)} for index, text in layout.names.items()]
    raw: dict = {"images": [], "annotations": [], "categories": categories}
    for number, image in enumerate(images.names, start=1):
        if image not in objects:
            continue  # its label file cannot be read
        header = headers.get(image)
        size = header.loaded if isinstance(header, Header) else None
        entry = {"id": number, "file_name": image}
        raw["images"].append(entry if size is None else {**entry, "width": size[0], "height": size[1]})
        for index, box in objects[image]:
            bbox = _in_px(box, size or (1, 1))
            raw["annotations"].append(
                {
                    "id": len(raw["annotations"]) + 1,
                    "image_id": number,
                    "category_id": index + 1,
                    "bbox": bbox,
                    "area": bbox[2] * bbox[3],
                    "iscrowd": 0,
                }
            )
    return Source(Split(name, split.source, images.folder), raw, boundary, log)


def _in_px(box: Box, size: tuple[int, int]) -> list[float]:
    """x, y, width, height in px."""
    x1, y1, x2, y2 = box
    width, height = size
    return [round(value, DIGITS) for value in (x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height)]


def _images(base: Path, split: YoloSplit, log: FaultLog) -> _Images:
    """The images of folders, of those with several files of one stem the JPEG; and those of lists, in their order."""
    alone = split.places[0] if len(split.places) == 1 and split.places[0].is_dir() else None
    found = _Images(alone or base, [])
    index: FileIndex | None = None
    for place in split.places:
        if place.is_dir():
            below = _of_folder(place, log)
            found.names += below if alone else [os.path.relpath(place / name, base) for name in below]
            found.whole.add(str(place))
            continue
        for line in list_lines(place):
            name = _of_line(line, place, base)
            if name is None:
                index = index or FileIndex(files_below(base))
                name = index.find(line)
                if name is not None:
                    log.add("renamed_files", f"{line} -> {name}")
            found.names.append(name or line.replace("\\", "/"))
    for name, times in Counter(found.names).items():
        if times > 1:
            log.add("repeated_images", name, times - 1)
    found.names = list(dict.fromkeys(found.names))
    return found


def _of_folder(folder: Path, log: FaultLog) -> list[str]:
    by_stem: dict[str, list[str]] = {}
    for name in files_below(folder):
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in IMAGE_SUFFIXES:
            by_stem.setdefault(stem, []).append(name)
    chosen = []
    for stem, names in by_stem.items():
        jpegs = [name for name in names if name.lower().endswith(_JPEG)]
        only = names if len(names) == 1 else jpegs
        if len(only) == 1:
            chosen += only
        else:
            log.add("several_files", f"{stem}: {', '.join(names)}")
    return chosen


def _of_line(line: str, list_file: Path, base: Path) -> str | None:
    """The image of a line of a list, relative to the data folder, or absolute if it lies outside; None if absent."""
    text = line.replace("\\", "/")
    for folder in (list_file.parent, base):
        path = os.path.normpath(os.path.join(folder, text))
        if os.path.lexists(path):
            below = os.path.relpath(path, base)
            return path if below.startswith("..") else below.replace(os.sep, "/")
    return None


class _Labels:
    """Finds and reads the label files of a data set."""

    def __init__(self, layout: YoloLayout, boundary: Boundary) -> None:
        self.layout, self.boundary = layout, boundary
        self._folders: dict[str, str] = {}
        self._texts: dict[str, set[str]] = {}

    def read(self, images: _Images, log: FaultLog, source: str, split: str) -> dict[str, list[tuple[int, Box]]]:
        """The objects of each image; an image without a label file has none.

        Raises:
            UserError: label files outside the boundary, or most numbers are no fractions.
        """
        paths = self._find(images)
        there = survey("", paths.values(), self.boundary)
        require_inside([(source, there, self.boundary)])
        found: dict[str, list[tuple[int, Box]]] = {}
        tally = Tally()
        for image, path in paths.items():
            name = os.path.relpath(path, self.layout.base)
            if path in there.absent:
                log.add("no_label_file", image)
                found[image] = []
                continue
            try:
                found[image] = read_labels(
                    Path(path), name, self.layout.names.keys(), self.layout.keypoints, log, tally
                )
            except FAULTS as error:
                log.add("unreadable_xml", f"{name}: {getattr(error, 'strerror', None) or error}")
        if tally.far * 2 > tally.lines:
            raise UserError(
                f"{split}: {tally.far} of {tally.lines} lines of the label files of {source} have numbers far above 1: "
                "YOLO's are fractions of the width and height of the image, these look like px; "
                f"the first lines: {'; '.join(log.examples.get('label_range', []))[:300]}"
            )
        self._count_strays(images, paths.values(), log)
        return found

    def _find(self, images: _Images) -> dict[str, str]:
        """The path of the label file of each image; the folder is the first candidate that has one for any of them."""
        by_folder: dict[str, list[str]] = {}
        for name in images.names:
            by_folder.setdefault(os.path.dirname(os.path.join(images.folder, name)), []).append(name)
        paths: dict[str, str] = {}
        for folder, names in by_folder.items():
            stems = {name: os.path.splitext(os.path.basename(name))[0] for name in names}
            places = [str(place) for place in label_folders(Path(folder), self.layout.base)]
            fitting = (p for p in places if any(f"{stem}.txt" in self._in(p) for stem in stems.values()))
            chosen = next(fitting, places[0] if places else folder)
            self._folders[folder] = chosen
            paths.update((name, os.path.join(chosen, f"{stem}.txt")) for name, stem in stems.items())
        return {name: paths[name] for name in images.names}

    def _in(self, folder: str) -> set[str]:
        if folder not in self._texts:
            inside = self.boundary.holds(os.path.realpath(folder))
            self._texts[folder] = {name for name in os.listdir(folder) if is_label(name)} if inside else set()
        return self._texts[folder]

    def _count_strays(self, images: _Images, used: Iterable[str], log: FaultLog) -> None:
        """Label files without an image, in folders that belong to this split alone."""
        taken = set(used)
        own = {folder for folder in self._folders if any(_is_below(folder, place) for place in images.whole)}
        shared = {label for folder, label in self._folders.items() if folder not in own}
        for folder in sorted({self._folders[image] for image in own} - shared - {str(self.layout.base / "labels")}):
            for name in sorted(self._in(folder)):
                if os.path.join(folder, name) not in taken:
                    log.add("label_strays", os.path.relpath(os.path.join(folder, name), self.layout.base))


def _is_below(folder: str, place: str) -> bool:
    return folder == place or folder.startswith(place + os.sep)
