"""Small files written whole or not at all (checkpoints have a stricter writer of their own, ``checkpoint.writing``)."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import BinaryIO

from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable


def unguessable(path: Path, suffix: str) -> Path:
    """A hidden name beside ``path`` that nobody can have prepared a link under."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{suffix}")


def create(path: Path) -> BinaryIO:
    """Open a new file for writing; an existing file or link of that name is an error (``FileExistsError``)."""
    return open(path, "xb")


def write_whole(path: str | Path, data: bytes | str) -> Path:
    """Write a file so that other processes, and a crash, see either the old one or the whole new one.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    path = Path(path)
    scratch = unguessable(path, ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with create(scratch) as file:
            file.write(data.encode("utf-8") if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise UserError(f"cannot write {printable(path)}: {error.strerror or error}") from error
    return path
