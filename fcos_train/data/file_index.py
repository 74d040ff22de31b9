"""Finds files by the names that another machine gave them: other folders, backslashes, another case.

A name means a file if no other file fits it: the base names agree, apart from case and from the form of accents, and so
do the folders, as far as both have any. `D:\\work\\train\\a.JPG` means `a.jpg`, or `train/a.jpg`.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

SPLIT_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
SPLIT_OF = {word: split for split, words in SPLIT_WORDS.items() for word in words}
# Besides the formats that are read, those whose files are still the image, so that the message is about them.
IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pbm",
     ".pnm", ".pam", ".jp2", ".j2k", ".avif", ".heic", ".heif")
)  # fmt: skip
_DRIVE = re.compile(r"[A-Za-z]:")


def fold(text: str) -> str:
    """A name without case, with accents in their composed form (macOS stores the decomposed one)."""
    return unicodedata.normalize("NFC", text).casefold()


def stem(name: str) -> str:
    """A path without the suffix of an image or an annotation file; other dots belong to the name."""
    root, suffix = os.path.splitext(name)
    return root if suffix.lower() in IMAGE_SUFFIXES or suffix.lower() == ".xml" else name


def files_below(folder: str | Path, leave_out: Callable[[str], bool] = lambda name: False) -> Iterator[str]:
    """Paths of all files relative to ``folder``, with ``/``; folders are not entered if they are links.

    Args:
        folder: where to look.
        leave_out: whether a folder of this name is not entered.
    """
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not leave_out(name))
        below = os.path.relpath(place, folder)
        prefix = "" if below == "." else below.replace(os.sep, "/") + "/"
        yield from (prefix + name for name in sorted(names))


class FileIndex:
    """Files by their names.

    Args:
        files: their paths relative to one folder.
        by_stem: names to look for have no suffix, and the files are found without theirs.
    """

    def __init__(self, files: Iterable[str], by_stem: bool = False) -> None:
        self._by_base: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
        for path in files:
            parts = PurePosixPath(stem(path) if by_stem else path).parts
            self._by_base.setdefault(fold(parts[-1]), []).append((path, parts))

    def find(self, name: str) -> str | None:
        """The one file that a name means; None if there is none, or several fit alike."""
        for variant in _variants(name):
            found = self.best(variant)
            if found:
                return found[0] if len(found) == 1 else None
        return None

    def best(self, name: str) -> list[str]:
        """The files that fit a name best: most folders in common, then the same case."""
        wanted = _parts(name)
        fitting = (
            [
                (rank, path)
                for path, parts in self._by_base.get(fold(wanted[-1]), ())
                if (rank := _rank(wanted, parts)) is not None
            ]
            if wanted
            else []
        )
        top = max((rank for rank, _ in fitting), default=None)
        return [path for rank, path in fitting if rank == top]


def _rank(wanted: Sequence[str], parts: Sequence[str]) -> tuple[int, int] | None:
    """(last parts that agree, those that agree in case as well); None if folders that both have differ."""
    pairs = list(zip(reversed(wanted), reversed(parts), strict=False))
    if any(fold(a) != fold(b) for a, b in pairs):
        return None
    return len(pairs), sum(a == b for a, b in pairs)


def _parts(name: str) -> list[str]:
    """Folders and base name of a path of any system, without drive, `.` and `..`."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return parts[1:] if parts and _DRIVE.fullmatch(parts[0]) else parts


def _variants(name: str) -> Iterator[str]:
    """The name, then what it may be an address of: `/data/local-files/?d=folder/a%20b.jpg`."""
    yield name
    if "?" in name:
        path, query = name.split("?", 1)
        yield from (unquote(query[2:]) if query.startswith("d=") else unquote(path),)
    if "%" in name:
        yield unquote(name)


def other_split(split: str) -> Callable[[str], bool]:
    """Whether a folder belongs to another split, by its name: `val2017` or `test` for train, `train` for others."""

    def of_another(name: str) -> bool:
        found = SPLIT_OF.get(re.sub(r"[\W_]*\d*$", "", name).lower())
        return found is not None and (found == "train") != (split == "train")

    return of_another


def new_names(folder: str | Path, names: Sequence[str], lost: set[str], split: str) -> dict[str, str]:
    """The files below ``folder`` that names without a file mean.

    Args:
        folder: of the images.
        names: all names of the split.
        lost: those that no file has.
        split: its name; folders of other splits are not searched.

    Returns:
        name -> path relative to ``folder``, without files that another name means as well.
    """
    index = FileIndex(files_below(folder, other_split(split)))
    taken = {os.path.normpath(name) for name in names if name not in lost}
    found = {name: path for name in lost if (path := index.find(name)) is not None and path not in taken}
    times = Counter(found.values())
    return {name: path for name, path in found.items() if times[path] == 1}
