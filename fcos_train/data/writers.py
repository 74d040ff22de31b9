"""Writes checked annotations in COCO, VOC or YOLO layout, as the readers of this package read them back.

Own code, because the libraries for it are not exact. supervision keeps boxes as float32, rounds those of VOC to whole
px and those of YOLO to five digits, and numbers images anew; globox drops crowd flags, areas and ids, and adds rounding
errors to corners. Here coordinates keep the digits that they have, up to 1e-9 px.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from fcos_train.data.file_index import files_below, fold
from fcos_train.data.voc_xml import CORNERS
from fcos_train.data.yolo import DIGITS
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_json
from mmcv_overrides.printable import printable

LISTS = "ImageSets/Main"


@dataclass
class Part:
    """A split to write.

    Attributes:
        name: train, val or test.
        data: annotations in COCO form; file names are those in the new data set, relative to the split's images.
    """

    name: str
    data: dict

    @property
    def classes(self) -> dict[int, str]:
        """Class names by category id, in order."""
        return {category["id"]: category["name"] for category in self.data["categories"]}

    def objects(self) -> dict[int, list[dict]]:
        """The annotations of each image by its id."""
        found: dict[int, list[dict]] = defaultdict(list)
        for annotation in self.data["annotations"]:
            found[annotation["image_id"]].append(annotation)
        return found


@dataclass(frozen=True)
class Format:
    """A layout to write.

    Attributes:
        folder: of the images of a split, given all splits and its name.
        write: writes the annotations of all splits; returns what the layout cannot hold.
    """

    folder: Callable[[Sequence[Part], str], str]
    write: Callable[[Path, Sequence[Part]], list[str]]


def write_coco(root: Path, parts: Sequence[Part]) -> list[str]:
    """``annotations/instances_<split>.json``; everything that the annotations hold."""
    for part in parts:
        write_json(root / "annotations" / f"instances_{part.name}.json", part.data)
    return []


def write_voc(root: Path, parts: Sequence[Part]) -> list[str]:
    """``Annotations/*.xml``, lists in ``ImageSets/Main`` and ``labelmap.txt``, which keeps the order of the classes."""
    notes = []
    for part in parts:
        _require_stems(part)
        folder = _voc_folder(parts, part.name)
        objects, stems = part.objects(), []
        for image in part.data["images"]:
            stem = os.path.splitext(folder + image["file_name"])[0]
            stems.append(stem)
            tree = _xml(image, objects[image["id"]], part.classes)
            _write(root / "Annotations" / f"{stem}.xml", ET.tostring(tree, encoding="unicode") + "\n")
        _write(root / LISTS / f"{part.name}.txt", "".join(f"{stem}\n" for stem in stems))
        notes += _only_boxes(part)
    names = parts[0].classes.values()
    lines = ["# label:color_rgb:parts:actions", *(f"{name}:::" for name in names)]
    _write(root / "labelmap.txt", "".join(f"{line}\n" for line in lines))
    return notes


def write_yolo(root: Path, parts: Sequence[Part]) -> list[str]:
    """``labels/<split>/*.txt`` and ``data.yaml``; a list of images where their order is not that of their names."""
    notes: list[str] = []
    places = {}
    for part in parts:
        _require_stems(part)
        objects, crowd, twice = part.objects(), 0, 0
        indices = {category: index for index, category in enumerate(part.classes)}
        names = [image["file_name"] for image in part.data["images"]]
        for image in part.data["images"]:
            boxes = [a for a in objects[image["id"]] if not _is_crowd(a)]
            lines = Counter(_yolo_line(indices[a["category_id"]], a["bbox"], image) for a in boxes)
            crowd += len(objects[image["id"]]) - len(boxes)
            twice += len(boxes) - len(lines)
            stem = os.path.splitext(image["file_name"])[0]
            _write(root / "labels" / part.name / f"{stem}.txt", "".join(f"{line}\n" for line in lines))
        places[part.name] = f"images/{part.name}"
        if list(files_below(root / "images" / part.name)) != names:
            places[part.name] = f"{part.name}.txt"
            text = "".join(f"./images/{part.name}/{name}\n" for name in names)
            _write(root / f"{part.name}.txt", text)
        notes += [f"{part.name}: {crowd} crowd or difficult boxes are left out: YOLO has none"] if crowd else []
        notes += [f"{part.name}: {twice} repeated boxes are written once"] if twice else []
        notes += _only_boxes(part)
    places.setdefault("val", places.get("test", ""))
    content: dict = {"path": ".", **{split: places[split] for split in ("train", "val", "test") if split in places}}
    content["names"] = dict(enumerate(parts[0].classes.values()))
    _write(root / "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return notes


FORMATS: Mapping[str, Format] = {
    "coco": Format(lambda parts, name: f"{name}/", write_coco),
    "voc": Format(lambda parts, name: f"JPEGImages/{_voc_folder(parts, name)}", write_voc),
    "yolo": Format(lambda parts, name: f"images/{name}/", write_yolo),
}


def _voc_folder(parts: Sequence[Part], name: str) -> str:
    """A folder for each split only where two splits have images of one name."""
    stems = [{_stem(image) for image in part.data["images"]} for part in parts]
    return f"{name}/" if len(set().union(*stems)) < sum(map(len, stems)) else ""


def _stem(image: Mapping) -> str:
    return fold(os.path.splitext(image["file_name"])[0])


def _require_stems(part: Part) -> None:
    """Refuse images whose annotation files would have one name."""
    stems = Counter(_stem(image) for image in part.data["images"])
    twice = [image["file_name"] for image in part.data["images"] if stems[_stem(image)] > 1]
    if twice:
        raise UserError(
            f"{part.name}: {len(twice)} images differ in suffix or case only, e.g. {printable(twice[0])}: the names "
            "of VOC and YOLO annotations have no suffix; rename the images, or convert to coco"
        )


def _only_boxes(part: Part) -> list[str]:
    """What VOC and YOLO do not hold of COCO annotations."""
    more = sum(
        bool(a.get("segmentation")) or bool(a.get("keypoints")) or abs(a["area"] - a["bbox"][2] * a["bbox"][3]) > 1e-6
        for a in part.data["annotations"]
    )
    ids = [image["id"] for image in part.data["images"]]
    notes = [f"{part.name}: of {more} annotations with a mask, keypoints or an own area only the box"] if more else []
    return notes + ([f"{part.name}: image ids are not kept"] if ids != list(range(1, len(ids) + 1)) else [])


def _write(path: Path, text: str) -> None:
    """Write a file of a folder that nobody reads yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _is_crowd(annotation: Mapping) -> bool:
    return bool(annotation["iscrowd"] or annotation.get("ignore"))


def _yolo_line(index: int, box: Sequence[float], image: Mapping) -> str:
    x, y, w, h = box
    width, height = image["width"], image["height"]
    return " ".join(map(str, (index, (x + w / 2) / width, (y + h / 2) / height, w / width, h / height)))


def _xml(image: Mapping, objects: Sequence[Mapping], classes: Mapping[int, str]) -> ET.Element:
    root = ET.Element("annotation")
    _add(root, "filename", printable(os.path.basename(image["file_name"])))
    size = ET.SubElement(root, "size")
    for key, value in (("width", image["width"]), ("height", image["height"]), ("depth", 3)):
        _add(size, key, value)
    for annotation in objects:
        element = ET.SubElement(root, "object")
        _add(element, "name", classes[annotation["category_id"]])
        _add(element, "difficult", int(_is_crowd(annotation)))
        x, y, w, h = annotation["bbox"]
        corners = ET.SubElement(element, "bndbox")
        for key, value in zip(CORNERS, (x, y, x + w, y + h), strict=True):
            _add(corners, key, _short(value))
    ET.indent(root)
    return root


def _add(parent: ET.Element, key: str, value: object) -> None:
    ET.SubElement(parent, key).text = str(value)


def _short(value: float) -> float | int:
    rounded = round(value, DIGITS)
    return int(rounded) if rounded == int(rounded) else rounded
