"""PASCAL VOC annotations (one XML file per image) as COCO dicts.

Coordinates. PASCAL's own annotations count pixels from 1 and include the last one, so a box is
(x, y, w, h) = (xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1). VOC files from annotation tools such as LabelImg
have the edges of the rectangle, counted from 0. Both look alike, because LabelImg never writes a 0. They differ in
`<source><database>`, which is "The VOC2007 Database" or similar in PASCAL's own. A coordinate below 1 anywhere rules
out PASCAL's counting.

Difficult objects become `iscrowd: 1`: as in VOC's evaluation, detections of them then count neither as true nor as
false positives, and mmdet does not train on them. (`ignore: 1` is not set: mmdet would drop such boxes, and anchor
heads could not ignore the anchors on them.)
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fcos_train.data.check import Source
from fcos_train.data.inside import Boundary, require_inside, require_parts_inside, survey
from fcos_train.data.spec import FaultLog, Split
from mmcv_overrides.printable import require_names
from mmcv_overrides.regular_files import read_regular, read_text

MAX_XML = 16 << 20  # bytes of one image's annotations
CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class VocObject:
    """An object of an XML file."""

    name: str
    corners: tuple[float, float, float, float] | None  # as written; None if they are not numbers
    difficult: bool


@dataclass
class VocImage:
    """An XML file."""

    file_name: str
    width: int | None  # None or 0 if missing: then read from the image later
    height: int | None
    pascal: bool  # the file says that it comes from a PASCAL challenge
    objects: list[VocObject] = field(default_factory=list)


def read_ids(list_file: Path) -> list[str]:
    """Image names of a split, without the second column that per-class lists have."""
    lines = read_text(list_file, "list of images").splitlines()
    return [line.split()[0] for line in lines if line.strip()]


def load(base: Path, lists: Sequence[tuple[str, Path]], boundary: Boundary) -> tuple[list[Source], str]:
    """Read the splits of a VOC folder.

    Args:
        base: the folder with JPEGImages/ and Annotations/.
        lists: (split name, list file) pairs; all splits use one coordinate origin (0 or 1) and the same ids.
        boundary: what may be read; images are checked later.

    Returns:
        A Source per split (categories: the sorted names, from id 1) and a note on how coordinates were read.

    Raises:
        UserError: lists or annotations outside the boundary, or class names with control characters.
    """
    require_parts_inside([base / "JPEGImages", base / "Annotations", *(path for _, path in lists)], boundary)
    _require_annotations_inside(base, [path for _, path in lists], boundary)
    files = _files_by_stem(base / "JPEGImages")
    splits = [_read_split(base, list_file, files) for _, list_file in lists]
    everything = [image for images, _ in splits for image in images]
    origin = _origin(everything)
    names = sorted({obj.name for image in everything for obj in image.objects})
    require_names(names, f"{base / 'Annotations'}")
    ids = {name: number for number, name in enumerate(names, start=1)}
    sources = [
        Source(Split(name, list_file, base / "JPEGImages"), _to_coco(images, ids, origin, log), boundary, log)
        for (name, list_file), (images, log) in zip(lists, splits, strict=True)
    ]
    counting = "PASCAL's pixels, counted from 1" if origin else "edges counted from 0, as drawing tools write them"
    return sources, f"VOC coordinates read as {counting}"


def _require_annotations_inside(base: Path, lists: Iterable[Path], boundary: Boundary) -> None:
    folder = base / "Annotations"
    require_inside(
        [(path, survey(folder, (f"{name}.xml" for name in read_ids(path)), boundary), boundary) for path in lists]
    )


def _files_by_stem(folder: Path) -> dict[str, str]:
    """Names of image files by stem: `<filename>` in an XML file is often out of date."""
    return {os.path.splitext(name)[0]: name for name in sorted(os.listdir(folder))}


def _read_split(base: Path, list_file: Path, files: dict[str, str]) -> tuple[list[VocImage], FaultLog]:
    images, log = [], FaultLog()
    for name in read_ids(list_file):
        path = base / "Annotations" / f"{name}.xml"
        try:
            image = _read_xml(path)
        except FileNotFoundError:
            log.add("missing_xml", path.name)
            continue
        except (ET.ParseError, OSError, ValueError, LookupError, RecursionError) as error:
            # LookupError, ValueError: an encoding that is unknown or does not match
            log.add("unreadable_xml", f"{path.name}: {getattr(error, 'strerror', None) or error}")
            continue
        image.file_name = files.get(name) or image.file_name or f"{name}.jpg"
        images.append(image)
    return images, log


def _read_xml(path: Path) -> VocImage:
    root = ET.fromstring(read_regular(path, MAX_XML))
    image = VocImage(
        file_name=(root.findtext("filename") or "").strip(),
        width=_whole(root.findtext("size/width")),
        height=_whole(root.findtext("size/height")),
        pascal=(root.findtext("source/database") or "").strip().startswith("The VOC"),
    )
    for element in root.findall("object"):
        image.objects.append(
            VocObject(
                (element.findtext("name") or "").strip(),
                _corners(element.find("bndbox")),
                (element.findtext("difficult") or "0").strip() == "1",
            )
        )
    return image


def _whole(text: str | None) -> int | None:
    try:
        return int(float(text or ""))
    except (ValueError, OverflowError):
        return None


def _corners(element: ET.Element | None) -> tuple[float, float, float, float] | None:
    if element is None:
        return None
    try:
        xmin, ymin, xmax, ymax = (float(element.findtext(key) or "") for key in CORNERS)
    except ValueError:
        return None
    return xmin, ymin, xmax, ymax


def _origin(images: Iterable[VocImage]) -> int:
    """1 if the coordinates are PASCAL's pixels, counted from 1; 0 if they are edges, counted from 0."""
    pascal = False
    for image in images:
        pascal = pascal or image.pascal
        for obj in image.objects:
            if obj.corners is not None and min(obj.corners) < 1:
                return 0
    return int(pascal)


def _to_coco(images: list[VocImage], ids: dict[str, int], origin: int, log: FaultLog) -> dict:
    """A COCO dict; boxes are (x, y, w, h) in px from the top left edge of the image."""
    coco_images: list[dict] = []
    annotations: list[dict] = []
    for image_id, image in enumerate(images, start=1):
        coco_images.append({"id": image_id, "file_name": image.file_name, "width": image.width, "height": image.height})
        for obj in image.objects:
            box = None
            if obj.corners is not None:
                x1, y1, x2, y2 = obj.corners
                box = [x1 - origin, y1 - origin, x2 - x1 + origin, y2 - y1 + origin]
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image_id,
                "category_id": ids[obj.name],
                "bbox": box,
                "area": box[2] * box[3] if box else 0.0,
                "iscrowd": int(obj.difficult),
            }
            if obj.difficult:
                log.add("difficult", image.file_name)
            annotations.append(annotation)
    used = {annotation["category_id"] for annotation in annotations}
    categories = [{"id": i, "name": name} for name, i in ids.items() if i in used]
    return {"images": coco_images, "annotations": annotations, "categories": categories}
