"""Finds out which files of a data set exist, and refuses paths that do not lead to regular files inside its folder.

A data set may come from an untrusted source. A path such as `../../x.jpg`, an absolute path or a link would read files
of this machine that are not part of it, and reading a device or a named pipe may never end.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable
from mmcv_overrides.regular_files import special

_LONGEST = 300  # characters of a path in a message
_FLAGS = 4  # folders in a message; if there are more, their common parent is named


class Boundary:
    """The folders that a data set may be read from.

    Args:
        root: the folder of the data set; it may itself be a link.
        allowed: further folders, from `--allow-outside`.

    Raises:
        UserError: one of `allowed` is not a folder.
    """

    def __init__(self, root: str | Path, allowed: Sequence[str | Path] = ()) -> None:
        absent = [
            f"--allow-outside {printable(folder)}: no such folder" for folder in allowed if not os.path.isdir(folder)
        ]
        if absent:
            raise UserError("; ".join(absent))
        self.root = root
        self._real = tuple(os.path.realpath(folder) for folder in (root, *allowed))

    def holds(self, real: str) -> bool:
        """Whether a path, with links resolved, is inside."""
        return any(real == folder or real.startswith(folder.rstrip(os.sep) + os.sep) for folder in self._real)


@dataclass
class Survey:
    """Names of files that cannot be read.

    Attributes:
        absent: the file does not exist.
        outside: name -> where it leads.
        special: name -> what it is, if not a regular file.
    """

    absent: set[str] = field(default_factory=set)
    outside: dict[str, str] = field(default_factory=dict)
    special: dict[str, str] = field(default_factory=dict)


def survey(folder: str | Path, names: Iterable[str], boundary: Boundary) -> Survey:
    """Look for files below `folder` without opening them.

    Each folder is resolved and listed once, because a file system call per file takes minutes over a network. Only
    links, and entries whose kind a listing does not tell, are examined one by one.
    """
    found = Survey()
    listed: dict[str, _Listing] = {}
    folders: dict[str, str] = {}
    for name in names:
        place, base = os.path.split(os.path.join(folder, name))
        listing = listed.get(place)
        if listing is None:
            listing = listed[place] = _Listing(place, boundary)
        if not listing.inside:
            found.outside[name] = os.path.join(listing.real, base)
        elif base not in listing.entries:
            found.absent.add(name)
        elif (entry := listing.entries[base]) is not None:
            _look_at(name, entry, folders, boundary, found)
    return found


def readable(folder: str | Path, names: Sequence[str]) -> list[str]:
    """The names that are regular files inside `folder`."""
    found = survey(folder, names, Boundary(folder))
    bad = found.absent | found.outside.keys() | found.special.keys()
    return [name for name in names if name not in bad]


class _Listing:
    """The entries of a folder by name: None for a regular file, otherwise the entry."""

    def __init__(self, place: str, boundary: Boundary) -> None:
        self.entries: dict[str, os.DirEntry[str] | None] = {}
        try:
            self.real = os.path.realpath(place)
            self.inside = boundary.holds(self.real)
            if self.inside:
                with os.scandir(place or ".") as entries:
                    self.entries = {e.name: None if e.is_file(follow_symlinks=False) else e for e in entries}
        except PermissionError as error:
            raise UserError(f"the folder {printable(place)} cannot be read: {error.strerror}") from None
        except (OSError, ValueError):  # no such folder; a name with a null character
            self.real, self.inside = place, True


def _look_at(name: str, entry: os.DirEntry[str], folders: dict[str, str], boundary: Boundary, found: Survey) -> None:
    real = entry.path
    if entry.is_symlink():
        real = _target(entry.path, folders)
        if not boundary.holds(real):
            found.outside[name] = real
            return
    try:
        kind = special(os.stat(real).st_mode)
    except OSError:  # a broken or circular link
        found.absent.add(name)
        return
    if kind is not None:
        found.special[name] = kind


def _target(link: str, folders: dict[str, str]) -> str:
    """Final target of a link, as from `os.path.realpath`, but with each folder resolved once (cached in `folders`)."""
    place, base = os.path.split(os.path.join(os.path.dirname(link), os.readlink(link)))
    if place not in folders:
        folders[place] = os.path.realpath(place)
    real = os.path.join(folders[place], base)
    return os.path.realpath(real) if base in ("", ".", "..") or os.path.islink(real) else real


def require_inside(found: Sequence[tuple[str | Path, Survey, Boundary]]) -> None:
    """Refuse paths that lead outside and files that are not regular files, all in one message.

    Args:
        found: (file that lists the paths, their survey, their boundary), for each split.

    Raises:
        UserError: there are any; the message names an example, their number and the flag that allows them.
    """
    faults = [
        f"{printable(holder)}: {_count(part.special, 'path')} to something that is not a regular file: "
        f"{_first_kind(part)}"
        for holder, part, _ in found
        if part.special
    ]
    if faults:
        raise UserError("; ".join(faults) + ". Only regular files are read: name such files in the list")
    lines = [
        f"{printable(holder)}: {_count(part.outside, 'path')} outside the data folder {printable(boundary.root)}: "
        + _first(part.outside)
        for holder, part, boundary in found
        if part.outside
    ]
    if lines:
        raise UserError("; ".join(lines) + _way_out(real for _, part, _ in found for real in part.outside.values()))


def require_parts_inside(parts: Iterable[str | Path], boundary: Boundary) -> None:
    """Refuse annotation files and image folders that are links to a place outside.

    Raises:
        UserError: there are any; see :func:`require_inside`.
    """
    real = {str(part): os.path.realpath(part) for part in parts}
    outside = {name: path for name, path in real.items() if not boundary.holds(path)}
    if outside:
        raise UserError(
            f"{_count(outside, 'part')} outside the data folder {printable(boundary.root)}: {_first(outside)}"
            + _way_out(outside.values())
        )


def _count(paths: Mapping, what: str) -> str:
    return f"{len(paths)} {what} leads" if len(paths) == 1 else f"{len(paths)} {what}s lead"


def _first(paths: Mapping[str, str]) -> str:
    name, real = next(iter(paths.items()))
    return ("" if len(paths) == 1 else "for example ") + f"'{_short(name)}' -> {_short(real)}"


def _first_kind(part: Survey) -> str:
    name, kind = next(iter(part.special.items()))
    return ("" if len(part.special) == 1 else "for example ") + f"'{_short(name)}' is {kind}"


def _short(path: str) -> str:
    shown = printable(path)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."


def _way_out(paths: Iterable[str]) -> str:
    folders = sorted({path if os.path.isdir(path) else os.path.dirname(path) for path in paths})
    if len(folders) > _FLAGS:
        folders = [os.path.commonpath(folders)]
    flags = " ".join(f"--allow-outside {printable(shlex.quote(folder))}" for folder in folders)
    return f". Files there are not read unless you allow it: {flags} (launchers in test/: after --)"
