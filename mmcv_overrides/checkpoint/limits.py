"""Bounds on the memory that reading a checkpoint may take, checked before it is allocated where the format allows.

torch.save stores every tensor uncompressed and once, so the content in memory is about as large as the file. A file
that expands to far more was made to exhaust the reader's memory.
"""

from __future__ import annotations

import mmap
import os
import tarfile
import zipfile
from collections import Counter
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch

from mmcv_overrides.errors import UserError

MAX_EXPANSION = 10  # bytes in memory per byte of the file
SLACK = 64 * 2**20  # bytes allowed on top, for small files
MAX_VALUES = 5_000_000  # numbers, texts and containers outside tensors, counted once per reference
MAX_DEPTH = 200
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_BYTEARRAY = b"\nbytearray\n"  # the only form in which torch reads names of globals
_NOT_MADE = "No training writes such a checkpoint; get the file again from its author"


def is_zip(file: BinaryIO) -> bool:
    """Whether the file begins as torch's zip archives do."""
    file.seek(0)
    return file.read(4) == b"PK\x03\x04"


def open_archive(file: BinaryIO) -> zipfile.ZipFile:
    """The zip archive; where torch wrote no checksums (``set_crc32_options(False)``), none are compared.

    Raises:
        zipfile.BadZipFile: it is not a zip archive.
    """
    archive = zipfile.ZipFile(file)
    if not any(member.CRC for member in archive.infolist()):
        for member in archive.infolist():
            del member.CRC  # zipfile compares it if it is there
    return archive


def check_archive(members: list[zipfile.ZipInfo], size: int, name: str) -> None:
    """Refuse zip archives that expand too far, or that two readers may understand differently.

    Args:
        members: of the archive.
        size: of the file, bytes.
        name: for messages.

    Raises:
        UserError: two members of one name, or content of more than ``MAX_EXPANSION`` times the file.
    """
    (most, times), *_ = Counter(member.filename for member in members).most_common(1) or [("", 0)]
    if times > 1:
        raise UserError(f"checkpoint {name} refused: it holds '{most}' twice. {_NOT_MADE}")
    check_size(sum(member.file_size for member in members), size, name)


def check_size(wanted: int, held: int, name: str) -> None:
    """Refuse ``wanted`` bytes in memory for ``held`` bytes of file.

    Raises:
        UserError: ``wanted`` is above ``MAX_EXPANSION * held + SLACK``.
    """
    if wanted > MAX_EXPANSION * held + SLACK:
        raise UserError(
            f"checkpoint {name} refused: {held} bytes of it would expand to {wanted} in memory. {_NOT_MADE}"
        )


def compression(file: BinaryIO) -> str | None:
    """Name of the compression of a file that is compressed as a whole (``.tar.gz``), by its first bytes; else None."""
    file.seek(0)
    head = file.read(8)
    return next((kind for magic, kind in _COMPRESSED.items() if head.startswith(magic)), None)


def is_tar(file: BinaryIO) -> bool:
    """Whether the file begins with a tar header; no more than its 512 bytes are read, whatever size it declares."""
    file.seek(0)
    head = file.read(tarfile.BLOCKSIZE)
    if head.startswith(b"PK\x03\x04"):  # torch decides by these four bytes
        return False
    try:
        tarfile.TarInfo.frombuf(head, tarfile.ENCODING, "surrogateescape")
    except (tarfile.TarError, ValueError):
        return False
    return True


def check_pickles(file: BinaryIO, name: str) -> None:
    """Refuse files that name ``bytearray``: torch lets a file call it with any size.

    Raises:
        UserError: it is named (or a text has exactly this form).
    """
    if is_zip(file):
        with open_archive(file) as archive:
            named = any(_BYTEARRAY in archive.read(m) for m in archive.namelist() if m.endswith(".pkl"))
    else:
        named = _found_in(file)
    if named:
        raise UserError(f"checkpoint {name} refused: it asks for a bytearray of any size. {_NOT_MADE}")


def _found_in(file: BinaryIO) -> bool:
    try:
        number = file.fileno()
    except OSError:  # a file in memory
        file.seek(0)
        return _BYTEARRAY in file.read()
    if not os.fstat(number).st_size:
        return False
    with mmap.mmap(number, 0, access=mmap.ACCESS_READ) as view:
        return view.find(_BYTEARRAY) >= 0


def check_tree(tree: Any, held: int, name: str) -> None:
    """Refuse content that expands when it is traversed or copied.

    Args:
        tree: what was read, placeholders of the unpickler included.
        held: bytes of content in the file, uncompressed.
        name: of the file, for messages.

    Raises:
        UserError: containers that contain themselves or repeat each other exponentially, tensors whose storage is not
            in the file, or tensors with far more elements than storage (stride 0).
    """
    count = _Count(name)
    if count.values(tree, 0) > MAX_VALUES:
        raise UserError(f"checkpoint {name} refused: it expands to over {MAX_VALUES} values. {_NOT_MADE}")
    stored = sum(count.storages.values())
    if stored > held + SLACK:
        raise UserError(
            f"checkpoint {name} refused: its tensors declare {stored} bytes, and the file holds {held}. {_NOT_MADE}"
        )
    check_size(count.elements, held, name)


class _Count:
    """One traversal that visits each container once and counts its size once per reference."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: dict[int, int | None] = {}  # id -> values within; None while it is being visited
        self.storages: dict[int, int] = {}  # of tensors: address -> bytes
        self.elements = 0  # bytes of all tensors, as if each were contiguous

    def values(self, value: Any, depth: int) -> int:
        """Number of values in a tree, itself included."""
        if isinstance(value, torch.Tensor):
            self._tensor(value)
            return 1
        items = _items(value)
        if items is None:
            return 1
        known = self.seen.get(id(value), -1)
        if known is None or depth > MAX_DEPTH:
            fault = "contains itself" if known is None else f"is nested deeper than {MAX_DEPTH} levels"
            raise UserError(f"checkpoint {self.name} refused: a container in it {fault}. {_NOT_MADE}")
        if known < 0:
            self.seen[id(value)] = None
            known = self.seen[id(value)] = 1 + sum(self.values(item, depth + 1) for item in items)
        return known

    def _tensor(self, value: torch.Tensor) -> None:
        if id(value) in self.seen or value.device.type == "meta":
            return
        self.seen[id(value)] = 1
        if value.layout is not torch.strided:
            value = value._values() if value.layout is torch.sparse_coo else value.values()
        storage = value.untyped_storage()
        self.storages[storage.data_ptr()] = storage.nbytes()
        self.elements += value.numel() * value.element_size()


def _items(value: Any) -> list | None:
    """The items of a container or of a placeholder of the unpickler; None for everything else."""
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)
    if hasattr(value, "revived"):
        return [value.state]
    return None
