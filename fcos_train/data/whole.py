"""Data sets without splits, as annotation tools export a task: one COCO file, XML or label files for all images.

A training refuses them, because which images validate is the user's decision: `fcos-train convert --val-share`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fcos_train.data import voc, yolo
from fcos_train.data.check import Source
from fcos_train.data.coco_json import load_coco
from fcos_train.data.coco_layout import CocoFile, contents, existing, folders_in, image_dir
from fcos_train.data.inside import Boundary, require_parts_inside
from fcos_train.data.spec import FaultLog, Split
from fcos_train.data.voc_layout import IMAGE_FOLDERS, VocSplit, xml_files
from fcos_train.data.yolo_layout import whole_yolo
from mmcv_overrides.errors import UserError
from mmcv_overrides.regular_files import read_json


def read_whole(root: Path, allow_outside: Sequence[str] = ()) -> tuple[Source, str]:
    """All images of a data set without splits, and the name of its layout.

    Args:
        root: its folder, or the one that holds it.
        allow_outside: folders that it may be read from beside its own.

    Raises:
        UserError: there is none, or several may be meant.
    """
    if not root.is_dir():
        raise UserError(f"data path {root} does not exist or is no folder")
    boundary = Boundary(root, allow_outside)
    for base in (root, *folders_in(root)):
        for layout, read in (("COCO", _coco), ("VOC", _voc), ("YOLO", _yolo)):
            found = read(base, boundary)
            if found is not None:
                return found, layout
    raise UserError(
        f"no data set without splits recognised in {root}. Looked for one COCO file with images/, Annotations/*.xml "
        f"with JPEGImages/ or images/, and labels/*.txt with images/ and classes.txt; found {contents(root)}"
    )


def _coco(base: Path, boundary: Boundary) -> Source | None:
    jsons = [path for place in existing(base, ("annotations", "", "train")) for path in sorted(place.glob("*.json"))]
    require_parts_inside(jsons, boundary)
    files = [path for path in jsons if _is_coco(path)]
    if len(files) > 1:
        names = ", ".join(str(path.relative_to(base)) for path in files)
        raise UserError(f"several COCO files in {base}: {names}; --val-share splits one. Leave it out, or merge them")
    if not files:
        return None
    log = FaultLog()
    raw = load_coco(files[0], log)
    images = image_dir(base, CocoFile(files[0], "train", ""), raw)
    require_parts_inside([images], boundary)
    return Source(Split("train", files[0], images), raw, boundary, log)


def _is_coco(path: Path) -> bool:
    data = read_json(path, "JSON file")
    return isinstance(data, dict) and all(isinstance(data.get(k), list) for k in ("images", "annotations"))


def _voc(base: Path, boundary: Boundary) -> Source | None:
    for xmls in existing(base, ("Annotations", "xml", "xmls", "")):
        for images in existing(base, (*IMAGE_FOLDERS, "")):
            files = xml_files(xmls)
            if files:
                return voc.load([("train", VocSplit(xmls, images, xmls, tuple(files)))], boundary, base)[0][0]
    return None


def _yolo(base: Path, boundary: Boundary) -> Source | None:
    layout = whole_yolo(base)
    return None if layout is None else yolo.load(layout, [("train", layout.train)], boundary)[0]
