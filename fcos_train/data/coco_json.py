"""COCO annotation files, read with clear errors."""

from __future__ import annotations

import json
import math
from pathlib import Path

from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable, require_names
from mmcv_overrides.regular_files import read_json

_IDS = ("id", "image_id", "category_id")


def load_coco(path: Path) -> dict:
    """The content of a COCO detection file.

    Ids of annotations that are lists or objects become text, so that they count as unknown ids.

    Raises:
        UserError: it is absent, not a regular file, not JSON or not COCO, or has class names with control characters.
    """
    data = read_json(path, "annotation file")
    keys = ("images", "annotations", "categories")
    lacking = [k for k in keys if not isinstance(data, dict) or not isinstance(data.get(k), list)]
    if lacking:
        raise UserError(f"{path} is not a COCO detection file: it has no list named {', '.join(lacking)}")
    for key, needed in (("images", ("id", "file_name")), ("categories", ("id", "name"))):
        for index, entry in enumerate(data[key]):
            if not isinstance(entry, dict) or any(name not in entry for name in needed):
                raise UserError(f"{path}: {key}[{index}] has no {' or no '.join(needed)}")
            if not _is_id(entry["id"]):
                raise UserError(f"{path}: the id of {key}[{index}] is {_shown(entry['id'])}; write a whole number")
            if key == "images" and not isinstance(entry["file_name"], str):
                raise UserError(
                    f"{path}: the file_name of images[{index}] is {_shown(entry['file_name'])}; write a file name"
                )
    require_names((category["name"] for category in data["categories"]), str(path))
    for annotation in data["annotations"]:
        if not isinstance(annotation, dict):
            raise UserError(f"{path}: annotations holds entries that are not objects")
        for key in _IDS:
            if isinstance(annotation.get(key), (list, dict)):
                annotation[key] = str(annotation[key])
    return data


def _is_id(value: object) -> bool:
    """Whether it can identify an entry; NaN cannot, it differs from itself."""
    return isinstance(value, (int, str)) or (isinstance(value, float) and math.isfinite(value))


def _shown(value: object) -> str:
    return printable(json.dumps(value))[:80]
