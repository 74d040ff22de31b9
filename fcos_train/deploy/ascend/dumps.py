"""Reads what a runner dumped for each image; numbering from 0 or 1 and the order of the outputs are detected."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fcos_train.deploy.parts.files import some
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable
from mmcv_overrides.regular_files import MAX_TEXT, read_regular

_NAME = re.compile(r"(.+)_(\d+)\.bin")
# Bytes of a box row (x1 y1 x2 y2 score, float32) and of a label.
_ROW, _LABELS = 20, {8: "<i8", 4: "<i4"}


@dataclass(frozen=True)
class Found:
    """Detections of one image: rows f32 [N, 5] (x1 y1 x2 y2 score, input pixels) and labels i64 [N]."""

    rows: np.ndarray
    labels: np.ndarray


class Dumps:
    """A folder of `<stem>_<k>.bin`.

    Args:
        folder: results of the runner.
        stems: of the images; the folder must have results of exactly these.
        base: number of the first output, 0 or 1; None: detected. Boxes and labels are the first two outputs.

    Raises:
        UserError: no such folder, missing results, files whose sizes do not fit each other (one may be truncated), or
            results of images that are not listed; the message names some of them.
    """

    def __init__(self, folder: str | Path, stems: Iterable[str], base: int | None = None) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(f"{folder}: no such folder; expected the results of the runner")
        numbers: dict[str, set[int]] = {}
        for name in os.listdir(self.folder):
            if match := _NAME.fullmatch(name):
                numbers.setdefault(match[1], set()).add(int(match[2]))
        stems = list(stems)
        known = {number for name in stems for number in numbers.get(name, ())}
        if not known:
            raise UserError(
                f"{folder} has no results for the {len(stems)} images listed, expected for example "
                f"{stems[0]}_0.bin and {stems[0]}_1.bin (or _1 and _2)"
            )
        self.base = min(known) if base is None else base
        wanted = {self.base, self.base + 1}
        foreign = sorted(set(numbers) - set(stems))
        if foreign:
            raise UserError(
                f"{folder} has results of {len(foreign)} images that the info file does not list: {some(foreign)}. "
                "Make the info file of the images that were run, or remove the results of others"
            )
        lacking = [f"{name}_{k}.bin" for name in stems for k in sorted(wanted - numbers.get(name, set()))]
        if lacking:
            raise UserError(f"{len(lacking)} results are missing in {folder}: {some(lacking)}")
        self._kinds = {name: self._kind(name) for name in stems}

    def _paths(self, name: str) -> list[Path]:
        return [self.folder / f"{name}_{self.base + k}.bin" for k in (0, 1)]

    def _kind(self, name: str) -> tuple[int, str]:
        """Index of the file with the boxes (0 or 1) and type of the labels, derived from the file sizes."""
        paths = self._paths(name)
        sizes = [path.stat().st_size for path in paths]
        for first in (0, 1):
            count, rest = divmod(sizes[first], _ROW)
            for size, kind in _LABELS.items():
                if not rest and sizes[1 - first] == count * size:
                    return first, kind
        raise UserError(
            f"{paths[0]} has {sizes[0]} bytes and {paths[1].name} {sizes[1]}: expected 20 bytes per box and "
            "8 (int64) or 4 (int32) per label, for 100 detections 2000 and 800. Is one of them truncated?"
        )

    def read(self, name: str) -> Found:
        """Read the detections of one image."""
        first, kind = self._kinds[name]
        paths = self._paths(name)
        try:
            boxes, labels = (read_regular(path, MAX_TEXT) for path in (paths[first], paths[1 - first]))
        except OSError as error:
            raise UserError(f"cannot read {printable(error.filename)}: {error.strerror}") from error
        return Found(np.frombuffer(boxes, "<f4").reshape(-1, 5), np.frombuffer(labels, kind).astype(np.int64))
