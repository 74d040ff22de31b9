"""COCO annotation files, read with clear errors."""

from __future__ import annotations

from pathlib import Path

from fcos_train.data.coco_fields import read_fields, shown
from fcos_train.data.spec import FaultLog
from mmcv_overrides.errors import UserError
from mmcv_overrides.json_values import plain_id
from mmcv_overrides.printable import require_names
from mmcv_overrides.regular_files import read_json_text


def load_coco(path: Path, log: FaultLog) -> dict:
    """The content of a COCO detection file, with ids, names, numbers and flags as :mod:`coco_fields` reads them.

    Args:
        path: the file.
        log: counts what is not written as COCO has it.

    Raises:
        UserError: it is absent, not a regular file, not JSON or not COCO, or has class names with control characters.
    """
    data, encoding = read_json_text(path, "annotation file")
    if encoding != "utf-8":
        log.add("encoding", f"{path.name}: {encoding}")
    keys = ("images", "annotations", "categories")
    lacking = [k for k in keys if not isinstance(data, dict) or not isinstance(data.get(k), list)]
    if lacking:
        raise UserError(f"{path} is not a COCO detection file: it has no list named {', '.join(lacking)}")
    for key, needed in (("images", ("id", "file_name")), ("categories", ("id", "name"))):
        for index, entry in enumerate(data[key]):
            _require_entry(entry, key, needed, f"{path}: {key}[{index}]", f"{path}: the {{}} of {key}[{index}]")
    if not all(isinstance(annotation, dict) for annotation in data["annotations"]):
        raise UserError(f"{path}: annotations holds entries that are not objects")
    read_fields(data, path, log)
    require_names((category["name"] for category in data["categories"]), str(path))
    return data


def _require_entry(entry: object, key: str, needed: tuple[str, ...], where: str, field: str) -> None:
    lacking = [name for name in needed if not isinstance(entry, dict) or name not in entry]
    if lacking or not isinstance(entry, dict):
        raise UserError(f"{where} has no {' and no '.join(lacking)}")
    if plain_id(entry["id"]) is None:
        raise UserError(f"{field.format('id')} is {shown(entry['id'])}; write a whole number")
    if key == "images" and not isinstance(entry["file_name"], str):
        raise UserError(f"{field.format('file_name')} is {shown(entry['file_name'])}; write a file name")
    if key == "categories" and not (entry["name"] is None or _is_name(entry["name"])):
        raise UserError(f"{field.format('name')} is {shown(entry['name'])}; write text")


def _is_name(value: object) -> bool:
    return isinstance(value, (str, int, float)) and not isinstance(value, bool)
