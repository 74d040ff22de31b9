"""Files written whole or not at all: a crash, a kill or a full disk leaves the old file unchanged."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable


def unguessable(path: Path, suffix: str) -> Path:
    """A hidden name beside ``path`` under which nobody can have prepared a link."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{suffix}")


def create(path: Path) -> BinaryIO:
    """Open a new file for writing; an existing file or link of that name is an error (``FileExistsError``)."""
    return open(path, "xb")


@contextmanager
def replacing(path: Path, suffix: str = ".tmp") -> Iterator[BinaryIO]:
    """Open a temporary file that replaces ``path`` if the block succeeds and is deleted if it raises.

    The temporary file is in the folder of ``path``, because a rename is atomic only within one file system.

    Args:
        suffix: end of the temporary file's name.

    Raises:
        OSError: the file cannot be created, written or renamed.
    """
    scratch = unguessable(path, suffix)
    try:
        with create(scratch) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        with suppress(OSError):
            scratch.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut, where the file system supports it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def written(path: str | Path) -> Iterator[None]:
    """Turn an error of the operating system within the block into one line for the user.

    Raises:
        UserError: the file could not be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write {printable(path)}: {error.strerror or error}") from error


def write_whole(path: str | Path, data: bytes | str) -> Path:
    """Write a file so that other processes, and a crash, see either the old one or the whole new one.

    Args:
        data: text is encoded as UTF-8.

    Returns:
        ``path``.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    path = Path(path)
    with written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(data.encode("utf-8") if isinstance(data, str) else data)
    return path


def append(path: Path, line: str) -> None:
    """Append a line, or nothing: what a full disk took of it is cut off, so that the file stays readable by lines.

    Raises:
        OSError: it cannot be written.
    """
    data = line.encode("utf-8")
    with open(path, "ab", buffering=0) as file:
        before = file.tell()
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            with suppress(OSError):
                file.truncate(before)
            raise


def write_json(path: str | Path, data: Any, indent: int | None = None) -> Path:
    """:func:`write_whole` with ``data`` as JSON.

    Raises:
        UserError: as :func:`write_whole`.
    """
    return write_whole(path, json.dumps(data, indent=indent))
