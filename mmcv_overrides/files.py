"""Small files written whole or not at all (checkpoints have a stricter writer of their own, ``checkpoint.writing``)."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from .errors import UserError
from .printable import printable


def write_whole(path: str | Path, data: bytes | str) -> Path:
    """Write a file so that other processes, and a crash, see either the old one or the whole new one.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    path = Path(path)
    # The host too: several machines may prepare the same data set on a shared disk.
    scratch = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(scratch, "wb") as file:
            file.write(data.encode("utf-8") if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise UserError(f"cannot write {printable(path)}: {error.strerror or error}") from error
    return path
