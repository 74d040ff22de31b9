"""The headers of all images of a split, read once, in threads, and kept in a cache of the user's.

Nothing is decoded but files that seem to be cut off or of an unusual kind. The cache lies outside the data set, which
may be read-only: in ``fcos_train/image_headers`` below ``XDG_CACHE_HOME`` or ``~/.cache``. An entry counts for a file
of the same size and time of change. Where the cache cannot be written, headers are read every time.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from fcos_train.data.image_header import header_size
from fcos_train.data.image_tags import is_deep, is_unusual, orientation
from fcos_train.data.images import MAX_BYTES, UnreadableImage, max_pixels, read_image, too_large, undecodable
from fcos_train.progress import track
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_json
from mmcv_overrides.regular_files import open_regular, read_json

HEAD, TAIL = 1 << 16, 1 << 12  # bytes that are read of a file
WORKERS, BATCH = 8, 64
VERSION = 1  # of the cache
MAX_CACHE = 1 << 30  # bytes


@dataclass(frozen=True)
class Header:
    """What the header of an image says.

    Attributes:
        width, height: as stored, px.
        orientation: EXIF orientation, 1 to 8; 1: loaded as stored.
        deep: it has 16 bits for each colour.
    """

    width: int
    height: int
    orientation: int = 1
    deep: bool = False

    @property
    def stored(self) -> tuple[int, int]:
        """(width, height) in the file, px."""
        return self.width, self.height

    @property
    def loaded(self) -> tuple[int, int]:
        """(width, height) of the image as it is loaded: turned by its EXIF orientation."""
        return (self.height, self.width) if self.orientation > 4 else (self.width, self.height)


Headers = Mapping[str, Header | str]  # file name -> its header, or why the image cannot be read


def read_header(path: str | Path) -> Header | str:
    """The header of an image file, or the reason why it cannot be read."""
    try:
        with open_regular(path) as file:
            return _header(path, file)
    except FileNotFoundError:
        return "the file is absent"
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        return getattr(error, "strerror", None) or str(error)


def _header(path: str | Path, file: BinaryIO) -> Header | str:
    length = os.fstat(file.fileno()).st_size
    data = file.read(HEAD)
    size = header_size(data)
    if len(data) < length <= MAX_BYTES and (size is None or data[:2] in (b"II", b"MM")):  # a TIFF may end with its tags
        data += file.read(length)
        size = header_size(data)
    if len(data) < length:
        file.seek(length - TAIL)
    tail = file.read(TAIL) if len(data) < length else data[-TAIL:]
    if size is None:
        return undecodable(data, length)
    if (reason := too_large(size)) is not None:
        return reason
    cut_off = _seems_cut_off(data, tail, length)
    if cut_off or is_unusual(data):
        try:
            read_image(path)
        except UnreadableImage as fault:
            return f"it is {'incomplete' if cut_off else 'of a kind that OpenCV does not decode'}: {fault.reason}"
    return Header(*size, orientation(data, tail), is_deep(data))


def _seems_cut_off(data: bytes, tail: bytes, length: int) -> bool:
    """Whether the end of a JPEG, PNG or WebP file is missing."""
    if data.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in tail
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in tail
    return data.startswith(b"RIFF") and 8 + struct.unpack_from("<I", data, 4)[0] > length


def read_headers(folder: str | Path, names: Sequence[str], turned: bool = True) -> dict[str, Header | str]:
    """The headers of the images of a folder, by name, from the cache where the files have not changed.

    Args:
        turned: whether images are loaded turned by their EXIF orientation; False: headers come without it.

    Raises:
        UserError: see :func:`fcos_train.data.images.max_pixels`.
    """
    max_pixels()  # a fault in its variable is not one of the images
    place = _cache_file(folder)
    known = _load(place)
    batches = [names[first : first + BATCH] for first in range(0, len(names), BATCH)]
    with ThreadPoolExecutor(WORKERS) as pool:
        looked_at = chain.from_iterable(pool.map(lambda batch: _look_at(folder, batch, known), batches))
        read = list(track(looked_at, "reading image headers", len(names)))
    fresh = {name: entry for name, entry, _ in read if entry is not None and known.get(name) != entry}
    if fresh and place is not None:
        with suppress(UserError):  # a cache that cannot be written costs time, nothing else
            write_json(place, {"version": VERSION, "folder": str(folder), "files": known | fresh})
    headers = {name: header for name, _, header in read}
    if turned:
        return headers
    return {name: replace(h, orientation=1) if isinstance(h, Header) else h for name, h in headers.items()}


def _look_at(folder: str | Path, names: Iterable[str], known: Mapping[str, list]) -> list[tuple]:
    """(name, entry of the cache, header or fault) for each name; no entry for a fault."""
    found: list[tuple] = []
    for name in names:
        path = os.path.join(folder, name)
        try:
            state = os.stat(path)
            stamp = [state.st_mtime_ns, state.st_size]
        except (OSError, ValueError):
            stamp = []
        entry = known.get(name)
        header = Header(*entry[2:]) if stamp and entry and entry[:2] == stamp else read_header(path)
        entry = [*stamp, *astuple(header)] if stamp and isinstance(header, Header) else None
        found.append((name, entry, header))
    return found


def _cache_file(folder: str | Path) -> Path | None:
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:  # this user has no home
        return None
    key = hashlib.sha256(os.path.realpath(folder).encode("utf-8", "surrogateescape")).hexdigest()
    return root / "fcos_train" / "image_headers" / f"{key[:32]}.json"


def _load(place: Path | None) -> dict[str, list]:
    """The entries of a cache file: name -> [time of change, bytes, fields of the header]; none if it is unusable."""
    if place is None or not place.is_file():
        return {}
    try:
        data = read_json(place, "cache of image headers", limit=MAX_CACHE)
        limit = max_pixels()
        return (
            {
                name: entry
                for name, entry in data["files"].items()
                if len(entry) == 6 and Header(*entry[2:]).orientation in range(1, 9) and entry[2] * entry[3] <= limit
            }
            if data["version"] == VERSION
            else {}
        )
    except (UserError, KeyError, TypeError, AttributeError):
        return {}
