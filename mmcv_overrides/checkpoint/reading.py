"""Reads checkpoints without executing anything from them."""

from __future__ import annotations

import logging
import os
import re
import warnings
import zipfile
import zlib
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch
from mmengine.logging import print_log

from mmcv_overrides.checkpoint import limits
from mmcv_overrides.checkpoint.plain import revive
from mmcv_overrides.checkpoint.scan import globals_named_in
from mmcv_overrides.checkpoint.unpickle import ALLOWED, placeholders
from mmcv_overrides.checkpoint.values import check_values
from mmcv_overrides.errors import UserError
from mmcv_overrides.regular_files import special

_ENV = "FCOS_TRUST_CHECKPOINT"
HOW_TO_TRUST = f"call mmcv_overrides.checkpoint.trust_checkpoints() or set {_ENV}=1 in the environment"
_trusted = False


class trust_checkpoints:
    """Allow files that need unpickling to run their code: from a call on, or within a ``with`` block."""

    def __init__(self, on: bool = True) -> None:
        global _trusted
        self._before, _trusted = _trusted, bool(on)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: Any) -> None:
        global _trusted
        _trusted = self._before


def trusted() -> bool:
    """Whether :class:`trust_checkpoints` or FCOS_TRUST_CHECKPOINT=1 in the environment allows unpickling."""
    return _trusted or os.environ.get(_ENV, "") == "1"


def load(path: str | os.PathLike, map_location: Any = "cpu", trust: bool = False) -> dict:
    """Read a checkpoint (a dict) from a local file, always with ``weights_only=True`` first.

    Args:
        path: a file written by torch.save, in any of its formats.
        map_location: as in :func:`torch.load`.
        trust: allow unpickling, and so any code in the file, if ``weights_only=True`` fails.

    Raises:
        UserError: the file is missing, empty, truncated, not a checkpoint, or needs unpickling and is not trusted; its
            weights are not finite, or complex (:func:`.values.check_values`).
    """
    path = Path(path).expanduser()
    check_there(path)
    try:
        with open(path, "rb") as file:
            found = read(file, str(path), map_location, trust)
    except OSError as error:
        raise UserError(f"cannot read checkpoint {path}: {error.strerror or error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a checkpoint: it contains a {type(found).__name__}, expected a dict of weights")
    return found


def peek(path: Path) -> dict:
    """Like :func:`load`, but tensors are memory-mapped where the format allows it: for reading ``meta``."""
    check_there(path)
    try:
        with open(path, "rb") as file:
            _check_format(file, str(path))
            _check_limits(file, str(path))
        with placeholders():
            found = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
        return found if isinstance(found, dict) else load(path)  # which refuses it
    except (OSError, RuntimeError, UnpicklingError, EOFError, ValueError, KeyError, AttributeError, zipfile.BadZipFile):
        return load(path)


def check_there(path: Path) -> None:
    """Refuse a path that no checkpoint can be read from.

    Raises:
        UserError: it does not exist, or is a folder, a broken link, a device or a pipe.
    """
    if path.is_symlink() and not path.exists():
        raise UserError(f"checkpoint {path} is a link to {os.readlink(path)}, which does not exist")
    if not path.exists():
        raise UserError(f"checkpoint {path} does not exist; check the path")
    kind = special(path.stat().st_mode)
    if kind == "a folder":
        raise UserError(f"checkpoint {path} is a folder; give a file in it, such as {path / 'latest.pth'}")
    if kind is not None:
        raise UserError(f"checkpoint {path} is {kind}, not a regular file")


def read(file: BinaryIO, name: str, map_location: Any = "cpu", trust: bool = False) -> Any:
    """Like :func:`load`, from an open binary file, and with content of any type; ``name`` is for messages."""
    _check_format(file, name)
    trust = trust or trusted()
    try:
        held = _check_limits(file, name)
        _check_sums(file, name)
        file.seek(0)
        with placeholders(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            found = torch.load(file, map_location=map_location, weights_only=True)
        limits.check_tree(found, held, name)
        found = revive(found)
    except UnpicklingError as error:
        reason = _reason(file, error)
    except (
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        RecursionError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise UserError(_broken(name, error)) from error
    else:
        if isinstance(found, dict):
            check_values(found, name)
        return found
    if reason is None:
        raise UserError(_broken(name, "it is not in a format of torch.save"))
    if not trust:
        raise UserError(
            f"checkpoint {name} refused: reading it would execute code from the file ({reason}); nothing has been "
            f"executed. If you trust its origin, {HOW_TO_TRUST}",
            setting="trust_checkpoint",
        )
    print_log(f"{name}: unpickled as trusted ({reason})", logger="current", level=logging.WARNING)
    return _unpickle(file, name, map_location)


def _unpickle(file: BinaryIO, name: str, map_location: Any) -> Any:
    """Unpickle; code in the file may raise any exception, which is reported as a fault of the file."""
    file.seek(0)
    try:
        return revive(torch.load(file, map_location=map_location, weights_only=False))
    except Exception as error:
        raise UserError(_broken(name, f"{type(error).__name__}: {error}")) from error


def _broken(name: str, error: object) -> str:
    text = str(error).strip().splitlines()
    return (
        f"checkpoint {name} cannot be read: truncated, damaged or not a checkpoint ({text[0] if text else 'no data'}). "
        "Use an earlier checkpoint or get the file again"
    )


def _check_format(file: BinaryIO, name: str) -> None:
    """Refuse files whose first bytes show that they are not checkpoints, with a message that says what they are."""
    file.seek(0)
    head = file.read(64)
    if not head:
        raise UserError(f"checkpoint {name} is empty (0 bytes); use an earlier checkpoint or get the file again")
    if not head.strip(b"\0"):
        raise UserError(_broken(name, "it begins with zeros, as after a power cut"))
    if head.startswith(b"version https://git-lfs"):
        raise UserError(f"{name} is a Git LFS pointer, not the checkpoint itself; fetch it with `git lfs pull`")
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"{name} is a web page, not a checkpoint; the download went wrong, get the file again")
    kind = limits.compression(file)
    if kind is not None:
        raise UserError(f"{name} is compressed with {kind}; decompress it and give the checkpoint inside")
    if head.startswith(b"PK\x03\x04"):
        _check_zip(file, name)


def _check_zip(file: BinaryIO, name: str) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            found = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError) as error:
        raise UserError(_broken(name, "the end of the file is missing")) from error
    limits.check_archive(found, file.seek(0, os.SEEK_END), name)
    members = [member.filename for member in found]
    if any(m.endswith("/constants.pkl") for m in members):
        raise UserError(f"{name} is a TorchScript program, not a checkpoint; it contains code to run, not only weights")
    if not any(m.endswith("data.pkl") for m in members):
        raise UserError(f"{name} is a zip archive, but not a checkpoint written by torch.save")


def _check_limits(file: BinaryIO, name: str) -> int:
    """Bytes of content in the file, uncompressed.

    Raises:
        UnpicklingError: a tar file; torch <= 2.5.1 executes its content even with weights_only (CVE-2025-32434).
        UserError: see :mod:`.limits`.
    """
    if limits.is_tar(file):
        raise UnpicklingError("the tar format of torch < 0.2")
    limits.check_pickles(file, name)
    if not limits.is_zip(file):
        return file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        return sum(member.file_size for member in archive.infolist())


def _check_sums(file: BinaryIO, name: str) -> None:
    """Compare the content of a zip archive with its checksums, which torch.load does not: 2 GB a second.

    Raises:
        UserError: a part differs, as after a fault of a disk or of a transfer.
    """
    if not limits.is_zip(file):
        return
    with limits.open_archive(file) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise UserError(_broken(name, f"the checksum of {damaged} is wrong"))


def _reason(file: BinaryIO, error: UnpicklingError) -> str | None:
    """What in the file needs unpickling; None if the file is not a pickle."""
    text = str(error)
    others = [g for g in globals_named_in(file) if not _harmless(g)]
    named = re.search(r"(?:Unsupported global: GLOBAL|unsupported GLOBAL) (\S+)", text)
    if named and not any(g.endswith(named.group(1)) for g in others):
        others.insert(0, named.group(1))
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        return f"it names {', '.join(others[:3])}{more}"
    if "tar format" in text or "numpy" in text or "codec" in text or "reduce" in text or "create new object" in text:
        return text.splitlines()[-1].strip()
    return None


def _harmless(name: str) -> bool:
    return (
        name in ALLOWED
        or name == "collections.OrderedDict"
        or name.startswith(("torch._utils._rebuild", "torch.storage."))
        or (re.fullmatch(r"torch\.\w+", name) is not None)
    )
