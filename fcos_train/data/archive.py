"""Data sets in archives: .zip and .tar files are unpacked once, beside the archive, before they are read.

An archive may come from an untrusted source. A name that leads out of the folder, a link, a device, an encrypted file
or far more data than the archive can hold is refused before the first file is written.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mmcv_overrides.errors import UserError
from mmcv_overrides.files import unguessable
from mmcv_overrides.printable import printable
from mmcv_overrides.regular_files import open_regular
from mmcv_overrides.text_encoding import decode_text

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
MAX_FILES = 4_000_000
MAX_RATIO = 200  # times larger unpacked than packed; annotations in text reach 20
FREE_RATIO = 1 << 28  # bytes that may be unpacked at any ratio
_ENDS = 1 << 20  # bytes at both ends that the fingerprint counts: a zip has its list of files at its end
_CHUNK = 1 << 20
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UTF8 = 0x800  # flag of a name in a zip
_BROKEN = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, RuntimeError, ValueError)


@dataclass(frozen=True)
class _Member:
    """A file of an archive: where it goes, bytes, and how to open it."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def is_archive(path: Path) -> bool:
    """Whether a file is an archive that :func:`unpacked` reads, by its name."""
    return path.name.lower().endswith(SUFFIXES) and not path.is_dir()


def unpacked(path: Path) -> tuple[Path, list[str]]:
    """The folder that an archive is unpacked to, and a note; other paths as they are.

    The folder is beside the archive, or in the user's cache where that place cannot be written. Its name has a
    fingerprint of the archive; it is made once, and whole or not at all.

    Raises:
        UserError: the archive is absent, damaged, unsafe or too large.
    """
    if not is_archive(path) or not path.exists():
        return path, []
    mark = _fingerprint(path)
    places = [folder / f"{_stem(path)}-{mark}" for folder in _folders(path)]
    for place in places:
        if place.is_dir():
            return place, [f"{path.name} was unpacked before, to {place}"]
    target = next((place for place in places if os.access(place.parent, os.W_OK)), None)
    if target is None:
        raise UserError(f"{path} cannot be unpacked: neither {places[0].parent} nor the cache can be written")
    count, size = _unpack(path, target)
    return target, [f"{path.name}: {count} files ({size / 1e6:.1f} MB) unpacked to {target}"]


def _stem(path: Path) -> str:
    suffix = max((s for s in SUFFIXES if path.name.lower().endswith(s)), key=len)
    return path.name[: -len(suffix)] or "archive"


def _folders(path: Path) -> Iterator[Path]:
    yield path.absolute().parent
    with suppress(RuntimeError, OSError):  # no home
        root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fcos_train" / "unpacked"
        root.mkdir(parents=True, exist_ok=True)
        yield root


def _fingerprint(path: Path) -> str:
    """Changes with the size, the time of change and both ends of a file."""
    try:
        with open_regular(path) as file:
            state = os.fstat(file.fileno())
            found = hashlib.sha256(f"{state.st_size} {state.st_mtime_ns}".encode())
            found.update(file.read(_ENDS))
            file.seek(max(0, state.st_size - _ENDS))
            found.update(file.read(_ENDS))
    except OSError as error:
        raise UserError(f"cannot read the archive {path}: {error.strerror or error}") from None
    return found.hexdigest()[:12]


def _unpack(path: Path, target: Path) -> tuple[int, int]:
    """Unpack to a folder beside ``target`` that then takes its name. Returns the number of files and bytes."""
    scratch = unguessable(target, ".tmp")
    try:
        with _opened(path) as members:
            size = _require_sound(path, members, target.parent)
            for member in members:
                _write(path, scratch.joinpath(*member.name.split("/")), member)
        try:
            os.rename(scratch, target)
        except OSError:
            if not target.is_dir():  # another process was faster
                raise
        return len(members), size
    except _BROKEN as error:
        raise UserError(
            f"{path} cannot be unpacked: it is damaged or of an unknown kind ({printable(error)})"
        ) from error
    except OSError as error:
        raise UserError(f"{path} cannot be unpacked to {target}: {printable(error.strerror or error)}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write(path: Path, place: Path, member: _Member) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    left = member.size
    with member.open() as source, open(place, "xb") as file:
        while data := source.read(_CHUNK):
            left -= len(data)
            if left < 0:
                raise UserError(f"{path}: {printable(member.name)} is larger than the archive states")
            file.write(data)
    if left:
        raise UserError(f"{path}: {printable(member.name)} is cut off; copy the archive again")


def _require_sound(path: Path, members: list[_Member], place: Path) -> int:
    """The bytes of all files, if they are within the limits.

    Raises:
        UserError: there are none, too many, too much for the archive or for the disk, or two of one name.
    """
    size = sum(member.size for member in members)
    _require_size(path, len(members), size)
    names = {member.name for member in members}
    fault = None
    if not members:
        fault = "it holds no files"
    elif len(names) < len(members):
        twice = sorted(member.name for member in members)
        fault = f"it holds {printable(next(a for a, b in zip(twice, twice[1:]) if a == b))} twice"
    elif size > (free := shutil.disk_usage(place).free):
        fault = f"it needs {size / 1e6:.0f} MB, and {place} has {free / 1e6:.0f} MB free"
    if fault:
        raise _refused(path, fault)
    return size


def _require_size(path: Path, count: int, size: int) -> None:
    packed = path.stat().st_size
    if count > MAX_FILES:
        raise _refused(path, f"it has {count} files, more than {MAX_FILES}")
    if size > max(FREE_RATIO, MAX_RATIO * packed):
        raise _refused(path, f"its {packed} bytes would become {size}, more than {MAX_RATIO} times as many")


def _refused(path: Path, fault: str) -> UserError:
    return UserError(f"{path} is not unpacked: {fault}. If it is sound, unpack it yourself and give the folder")


@contextmanager
def _opened(path: Path) -> Iterator[list[_Member]]:
    if path.name.lower().endswith(".zip"):
        with zipfile.ZipFile(path) as zipped:
            yield [member for info in zipped.infolist() if (member := _of_zip(path, zipped, info)) is not None]
    else:
        with tarfile.open(path) as tarred:
            members: list[_Member] = []
            size = 0
            for info in tarred:  # which reads all data of a compressed archive, so that limits are checked on the way
                size += info.size
                _require_size(path, len(members), size)
                member = _of_tar(path, tarred, info)
                members += [] if member is None else [member]
            yield members


def _of_zip(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member | None:
    name = _safe(path, _zip_name(info))
    mode = info.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UserError(f"{path} is not unpacked: {printable(name)} is a link or a special file; only files are")
    if info.flag_bits & 1:
        raise UserError(f"{path} is not unpacked: {printable(name)} is encrypted")
    if info.is_dir() or _is_clutter(name):
        return None
    return _Member(name, info.file_size, lambda: archive.open(info))


def _of_tar(path: Path, archive: tarfile.TarFile, info: tarfile.TarInfo) -> _Member | None:
    name = _safe(path, info.name)
    if info.isdir() or _is_clutter(name):
        return None
    if not info.isreg() or info.issparse():
        raise UserError(f"{path} is not unpacked: {printable(name)} is a link or a special file; only files are")

    def opened() -> IO[bytes]:
        file = archive.extractfile(info)
        assert file is not None  # a regular file
        return file

    return _Member(name, info.size, opened)


def _zip_name(info: zipfile.ZipInfo) -> str:
    """The name of a file; without the flag of UTF-8 it is in the encoding of the machine that packed it."""
    if info.flag_bits & _UTF8 or info.filename.isascii():
        return info.filename
    try:
        return decode_text(info.filename.encode("cp437"))[0]
    except ValueError:
        return info.filename


def _safe(path: Path, name: str) -> str:
    """A name as a path below the folder, with ``/``.

    Raises:
        UserError: it leads outside, or has control characters.
    """
    plain = name.replace("\\", "/")
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    if plain.startswith("/") or re.match(r"[A-Za-z]:", plain) or ".." in parts or _CONTROL.search(plain):
        raise UserError(f"{path} is not unpacked: the name '{printable(name)[:200]}' leads outside the folder")
    return "/".join(parts)


def _is_clutter(name: str) -> bool:
    """Whether a file is what macOS adds to archives: copies of attributes, which look like images."""
    first, last = name.split("/")[0], name.rsplit("/", 1)[-1]
    return not name or first == "__MACOSX" or last.startswith("._") or last == ".DS_Store"
