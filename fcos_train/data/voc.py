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
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from fcos_train.data.check import Source
from fcos_train.data.file_index import IMAGE_SUFFIXES, FileIndex, files_below, stem
from fcos_train.data.inside import Boundary, require_inside, require_parts_inside, survey
from fcos_train.data.spec import FaultLog, Split
from fcos_train.data.voc_layout import VocSplit, labelmap
from fcos_train.data.voc_xml import FAULTS, VocImage, read_xml
from mmcv_overrides.printable import require_names

_JPEG = (".jpg", ".jpeg")


def load(
    splits: Sequence[tuple[str, VocSplit]], boundary: Boundary, base: Path | None = None
) -> tuple[list[Source], str]:
    """Read the splits of a VOC folder.

    Args:
        splits: their names and parts; all use one coordinate origin (0 or 1) and the same ids.
        boundary: what may be read; images are checked later.
        base: folder of a labelmap.txt, whose class names come first, in its order.

    Returns:
        A Source per split (categories: the names of labelmap.txt, then the others, sorted, from id 1) and a note on how
        coordinates were read.

    Raises:
        UserError: lists or annotations outside the boundary, or class names with control characters.
    """
    parts = dict.fromkeys(folder for _, split in splits for folder in (split.images, split.annotations))
    require_parts_inside([*parts, *(split.source for _, split in splits)], boundary)
    require_inside([(split.source, survey(split.annotations, split.files, boundary), boundary) for _, split in splits])
    images = {folder: _image_index(folder) for folder in dict.fromkeys(split.images for _, split in splits)}
    read = [_read_split(split, images[split.images]) for _, split in splits]
    everything = [image for images, _ in read for image in images]
    origin = _origin(everything)
    used = {obj.name for image in everything for obj in image.objects}
    listed = [] if base is None else _listed(base, boundary, used)
    names = [*listed, *sorted(used.difference(listed))]
    require_names(names, f"{splits[0][1].annotations}")
    ids = {name: number for number, name in enumerate(names, start=1)}
    always = {ids[name] for name in listed}
    sources = [
        Source(Split(name, split.source, split.images), _to_coco(images, ids, origin, log, always), boundary, log)
        for (name, split), (images, log) in zip(splits, read, strict=True)
    ]
    counting = "PASCAL's pixels, counted from 1" if origin else "edges counted from 0, as drawing tools write them"
    return sources, f"VOC coordinates read as {counting}"


def _listed(base: Path, boundary: Boundary, used: set[str]) -> list[str]:
    """The class names of labelmap.txt; its background is no class, unless objects have that name."""
    found = labelmap(base)
    if found is None:
        return []
    require_parts_inside([found[0]], boundary)
    return [name for name in found[1] if name != "background" or name in used]


def _image_index(folder: Path) -> FileIndex:
    """Images by stem. Tools leave other files of the same stem beside them: .xml, .json, .txt."""
    return FileIndex((path for path in files_below(folder) if _may_be_image(path)), by_stem=True)


def _may_be_image(path: str) -> bool:
    suffix = os.path.splitext(path)[1].lower()
    return suffix in IMAGE_SUFFIXES or not suffix


def _read_split(split: VocSplit, files: FileIndex) -> tuple[list[VocImage], FaultLog]:
    images, log = [], FaultLog()
    for name, times in Counter(split.files).items():
        path = split.annotations / name
        if times > 1:
            log.add("repeated_images", path.name, times - 1)
        try:
            image = read_xml(path)
        except FileNotFoundError:
            log.add("missing_xml", path.name)
            continue
        except FAULTS as error:
            log.add("unreadable_xml", f"{path.name}: {getattr(error, 'strerror', None) or error}")
            continue
        found = _image_of(stem(name), image.file_name, files)
        if len(found) > 1:
            log.add("several_files", f"{stem(name)}: {', '.join(found)}")
            continue
        image.file_name = found[0]
        if image.guessed:
            log.add("encoding", f"{path.name}: {image.guessed}")
        unnamed = [obj for obj in image.objects if not obj.name]
        if unnamed:
            log.add("unnamed_objects", path.name, len(unnamed))
            image.objects = [obj for obj in image.objects if obj.name]
        images.append(image)
    return images, log


def _image_of(name: str, stated: str, files: FileIndex) -> list[str]:
    """The image of an XML file: of its stem, since `<filename>` is often out of date; several if it is not certain.

    Args:
        name: path of the XML file without suffix.
        stated: what the file says.
        files: the images by stem.
    """
    found = files.best(name) or files.best(stem(name))
    if len(found) > 1:  # a mask, or a copy in another format
        same = [path for path in found if os.path.basename(path) == re.split(r"[\\/]", stated)[-1]]
        found = same or [path for path in found if path.lower().endswith(_JPEG)] or found
    if not found and stated:
        by_name = files.best(stem(stated))
        found = by_name if len(by_name) == 1 else []
    return found or [stated or f"{name}.jpg"]


def _origin(images: Iterable[VocImage]) -> int:
    """1 if the coordinates are PASCAL's pixels, counted from 1; 0 if they are edges, counted from 0."""
    pascal = False
    for image in images:
        pascal = pascal or image.pascal
        for obj in image.objects:
            if obj.corners is not None and min(obj.corners) < 1:
                return 0
    return int(pascal)


def _to_coco(images: list[VocImage], ids: dict[str, int], origin: int, log: FaultLog, always: set[int]) -> dict:
    """A COCO dict; boxes are (x, y, w, h) in px from the top left edge of the image.

    Categories are those that have objects, and those of the ids in ``always``.
    """
    coco_images: list[dict] = []
    annotations: list[dict] = []
    for image_id, image in enumerate(images, start=1):
        coco_images.append({"id": image_id, "file_name": image.file_name, "width": image.width, "height": image.height})
        for obj in image.objects:
            box = None
            if obj.corners is not None:
                x1, y1, x2, y2 = obj.corners
                # Rounded, because the difference of two decimal numbers has errors in its last digits.
                width, height = (round(side, 9) for side in (x2 - x1 + origin, y2 - y1 + origin))
                box = [x1 - origin, y1 - origin, width, height]
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
    used = always.union(annotation["category_id"] for annotation in annotations)
    categories = [{"id": i, "name": name} for name, i in ids.items() if i in used]
    return {"images": coco_images, "annotations": annotations, "categories": categories}
