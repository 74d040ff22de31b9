"""Lists of input files with clear errors, and small helpers for messages."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from fcos_train.data.images import UnreadableImage
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable

T = TypeVar("T")


def stem(path: str | Path) -> str:
    """The part of a file name that all files of one image share: the text before the first dot."""
    return Path(path).name.split(".", 1)[0]


def listed(folder: str | Path, suffixes: Sequence[str], what: str) -> list[Path]:
    """List the files of a folder with one of the suffixes (case-sensitive), sorted by name; hidden files are skipped.

    Args:
        what: name of the files, for messages.

    Raises:
        UserError: there is no such folder, or it has no such file.
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
    """Map the stem of each file to the file.

    Raises:
        UserError: two files share the text before their first dot, so their results would overwrite each other.
    """
    found: dict[str, Path] = {}
    for path in paths:
        other = found.setdefault(stem(path), path)
        if other is not path:
            raise UserError(f"{other} and {path} would both be named {stem(path)}.bin: rename one of them")
    return found


def undecodable(faults: Sequence[tuple[str | Path, UnreadableImage]]) -> str:
    """`images cannot be decoded: a.jpg, b.jpg (why)`, for messages."""
    return f"images cannot be decoded: {some([path for path, _ in faults])} ({faults[0][1]})"


def some(names: Sequence, limit: int = 5) -> str:
    """The first few of a list, for messages."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(printable, names[:limit])) + more
