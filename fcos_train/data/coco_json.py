"""COCO annotation files on disk: read with clear errors, written atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_whole


def load_coco(path: Path) -> dict:
    """The content of a COCO detection file. Raises UserError if it is absent, not JSON or not COCO."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))  # some tools write a byte order mark
    except FileNotFoundError:
        raise UserError(f"annotation file {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise UserError(f"annotation file {path} cannot be read as JSON: {error}") from None
    keys = ("images", "annotations", "categories")
    lacking = [k for k in keys if not isinstance(data, dict) or not isinstance(data.get(k), list)]
    if lacking:
        raise UserError(f"{path} is not a COCO detection file: it has no list named {', '.join(lacking)}")
    for key, needed in (("images", ("id", "file_name")), ("categories", ("id", "name"))):
        for index, entry in enumerate(data[key]):
            if not isinstance(entry, dict) or any(name not in entry for name in needed):
                raise UserError(f"{path}: {key}[{index}] has no {' or no '.join(needed)}")
    if not all(isinstance(annotation, dict) for annotation in data["annotations"]):
        raise UserError(f"{path}: annotations holds entries that are not objects")
    return data


def write_json(data: Mapping, path: Path) -> Path:
    """Write atomically: other processes see the whole file or none. Raises UserError if that fails."""
    return write_whole(path, json.dumps(data))
