"""Files of the offline road: listed with clear errors, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fcos_train.data.images import UnreadableImage, read_image
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable


def stem(path: str | Path) -> str:
    """The name that all files of one image share: the text before the first dot."""
    return Path(path).name.split(".", 1)[0]


def listed(folder: str | Path, suffixes: Sequence[str], what: str) -> list[Path]:
    """Files of a folder with one of the suffixes (as written), sorted by name; hidden ones are left out.

    Raises:
        UserError: there is no such folder, or nothing of the kind in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected {what}")
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if not e.name.startswith(".") and e.name.endswith(tuple(suffixes)))
    if not names:
        raise UserError(f"{folder} holds no {what} ({', '.join('*' + s for s in suffixes)})")
    return [folder / name for name in names]


def unique_stems(paths: Iterable[Path]) -> dict[str, Path]:
    """Stem -> file.

    Raises:
        UserError: two files share the text before their first dot, so their results would overwrite each other.
    """
    found: dict[str, Path] = {}
    for path in paths:
        other = found.setdefault(stem(path), path)
        if other is not path:
            raise UserError(f"{other} and {path} would both be named {stem(path)}.bin: rename one of them")
    return found


def decode(path: str | Path) -> np.ndarray | UnreadableImage:
    """BGR u8 [H, W, 3], turned as its EXIF tag says; what is wrong with it if it cannot be decoded."""
    try:
        return read_image(path)
    except UnreadableImage as fault:
        return fault


def undecodable(faults: Sequence[tuple[str | Path, UnreadableImage]]) -> str:
    """`images cannot be decoded: a.jpg, b.jpg (why)`, for messages."""
    return f"images cannot be decoded: {some([path for path, _ in faults])} ({faults[0][1]})"


def some(names: Sequence, limit: int = 5) -> str:
    """The first few of a list, for messages."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(printable, names[:limit])) + more


def progress(items: Iterable, what: str, total: int | None = None):
    """A progress bar around a loop, shown on a terminal only."""
    from tqdm import tqdm

    return tqdm(items, desc=what, total=total, unit="img", disable=None)
