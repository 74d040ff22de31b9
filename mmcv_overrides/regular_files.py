"""Reads files of others, JSON and text, but only regular files of a sensible size."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable
from mmcv_overrides.text_encoding import decode_text

MAX_JSON = 8 << 30  # bytes; the largest published annotations (Objects365, Open Images) have about 5 GB
MAX_TEXT = 256 << 20  # bytes of a list, an info file, a description

_SPECIAL = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


def special(mode: int) -> str | None:
    """What a file is, by its ``st_mode``, if it is not a regular file; None for a regular file."""
    if stat.S_ISREG(mode):
        return None
    return next((name for test, name in _SPECIAL if test(mode)), "of an unknown kind")


@contextmanager
def open_regular(path: str | Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading; anything else is refused before it is opened, because reading it may never end.

    Raises:
        OSError: absent, not readable, or not a regular file; ``strerror`` says which.
    """
    _require_regular(path, os.stat(path).st_mode)
    # In case it has been replaced meanwhile: opening a pipe does not block, and the opened file is checked again.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(handle, "rb") as file:
        _require_regular(path, os.fstat(handle).st_mode)
        yield file


def read_regular(path: str | Path, limit: int) -> bytes:
    """The content of a regular file.

    Args:
        path: the file.
        limit: the largest size, bytes.

    Raises:
        OSError: see :func:`open_regular`, or too large; ``strerror`` says which.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            text = f"it has {size} bytes, more than the limit of {limit}"
            raise OSError(errno.EFBIG, text, str(path))
        # Not to the end: files in /proc have size 0 and may be endless.
        return file.read(size)


def _require_regular(path: str | Path, mode: int) -> None:
    kind = special(mode)
    if kind == "a folder":
        raise IsADirectoryError(errno.EISDIR, "it is a folder, not a file", str(path))
    if kind is not None:
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))


def read_json(path: str | Path, what: str, limit: int = MAX_JSON) -> Any:
    """The content of a JSON file; see :func:`read_json_text` for its encoding.

    Args:
        path: the file.
        what: what the file is, for messages: ``annotation file``.
        limit: the largest size, bytes.

    Raises:
        UserError: absent, not a regular file, too large, or not JSON.
    """
    return read_json_text(path, what, limit)[0]


def read_json_text(path: str | Path, what: str, limit: int = MAX_JSON) -> tuple[Any, str]:
    """The content of a JSON file, and the name of its encoding, which :func:`decode_text` finds.

    Raises:
        UserError: as :func:`read_json`.
    """
    shown = f"{what} {printable(path)}"
    try:
        text, encoding = decode_text(read_regular(path, limit))
        return json.loads(text), encoding
    except FileNotFoundError:
        raise UserError(f"cannot read the {shown}: it does not exist") from None
    except OSError as error:
        raise UserError(f"cannot read the {shown}: {error.strerror or error}") from None
    except RecursionError:
        raise UserError(f"the {shown} cannot be read as JSON: it is nested too deeply") from None
    except MemoryError:
        raise UserError(f"the {shown} does not fit into memory") from None
    except ValueError as error:
        raise UserError(f"the {shown} is not a JSON file: {printable(error)}") from None


def is_number(value: object) -> bool:
    """Whether a value of a JSON file is a finite number in the range of float32 whose square is in that of float64."""
    return isinstance(value, (int, float)) and -1e30 < value < 1e30  # False for NaN


def read_text(path: str | Path, what: str, limit: int = MAX_TEXT) -> str:
    """The content of a text file; :func:`decode_text` finds its encoding.

    Args:
        path: the file.
        what: what the file is, for messages: ``info file``.
        limit: the largest size, bytes.

    Raises:
        UserError: absent, not a regular file, too large, or of an unknown encoding.
    """
    try:
        return decode_text(read_regular(path, limit))[0]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read the {what} {printable(path)}: {reason}") from error
