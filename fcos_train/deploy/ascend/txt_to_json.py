"""Converts text files of detections to one COCO result file."""

from __future__ import annotations

import json
import math
from pathlib import Path

from fcos_train.deploy.parts.classes import Truth
from fcos_train.deploy.parts.files import listed
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_whole
from mmcv_overrides.json_values import Id
from mmcv_overrides.printable import printable
from mmcv_overrides.regular_files import read_text

SMALLEST_SCORE = 0.05


def collect(folder: str | Path, truth: Truth, smallest: float = SMALLEST_SCORE) -> list[dict]:
    """Read the COCO results of all `<stem>.txt` of a folder, sorted by file name.

    Args:
        truth: class name -> category id, stem -> image id; without images the stem is the id, as in COCO.
        smallest: results below this score are dropped.

    Raises:
        UserError: no text files, a malformed line, an unknown class, or a stem without an image.
    """
    results = []
    for path in listed(folder, (".txt",), "text files of detections"):
        image = _image_id(path, truth)
        for number, line in enumerate(read_text(path, "text file of detections").splitlines(), start=1):
            name, values = _parse(line, f"{path}, line {number}")
            score, x1, y1, x2, y2 = values
            if score >= smallest:
                box = [x1, y1, x2 - x1, y2 - y1]
                entry = {"image_id": image, "bbox": box, "score": score, "category_id": truth.category_id(name)}
                results.append(entry)
    return results


def txt_to_json(
    folder: str | Path, out: str | Path, truth: Truth, smallest: float = SMALLEST_SCORE
) -> tuple[Path, int]:
    """Write the results as a JSON list; `.json` is appended to the name.

    Returns:
        the file, and the number of results.
    """
    results = collect(folder, truth, smallest)
    path = Path(out) if str(out).endswith(".json") else Path(f"{out}.json")
    return write_whole(path, json.dumps(results)), len(results)


def _parse(line: str, where: str) -> tuple[str, list[float]]:
    """The class name, which may contain blanks, and the last five tokens: score, x1, y1, x2, y2."""
    name, *tokens = line.rsplit(" ", 5)
    try:
        values = [float(token) for token in tokens]
    except ValueError:
        values = []
    if len(values) != 5 or not name or not all(map(math.isfinite, values)):
        raise UserError(
            f"{where}: expected '<class name> <score> <x1> <y1> <x2> <y2>' with finite numbers, "
            f"found '{printable(line[:120])}'"
        )
    return name, values


def _image_id(path: Path, truth: Truth) -> Id:
    """Image id of a text file."""
    if truth.images:
        return truth.image_id(path.stem)
    if not path.stem.isdecimal():
        raise UserError(
            f"{path}: the name is not an image id as in COCO; give the annotations, which know it: "
            "--ground-truth instances_val.json"
        )
    return int(path.stem)
