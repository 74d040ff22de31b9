"""Info files, as `get_info.py` writes and `benchmark` reads them: lines `<index> <path> <width> <height>`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fcos_train.data.images import UnreadableImage, try_read_image
from fcos_train.deploy.parts.files import listed, stem, undecodable
from fcos_train.progress import track
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_whole
from mmcv_overrides.printable import printable
from mmcv_overrides.regular_files import read_text

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".JPG", ".JPEG")


@dataclass(frozen=True)
class Row:
    """One line of an info file; width and height in pixels."""

    index: int
    path: str
    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.index} {self.path} {self.width} {self.height}"


def bin_info(folder: str, out: str | Path, width: int, height: int) -> int:
    """Write the info file of the `.bin` files of a folder, sorted by name.

    Args:
        out: the info file. width, height: of the network input in pixels, the same for all files.

    Returns:
        the number of rows.
    """
    if width < 1 or height < 1:
        raise UserError(f"the input size must be positive, not {width}x{height} (width first)")
    names = [path.name for path in listed(folder, (".bin",), ".bin files")]
    return _write(out, [Row(i, os.path.join(folder, name), width, height) for i, name in enumerate(names)])


def image_info(folder: str, out: str | Path) -> int:
    """Write the info file of the JPEG files of a folder with their sizes.

    The index restarts at 0 for each spelling of the suffix.

    Returns:
        the number of rows.

    Raises:
        UserError: no images, or some that cannot be decoded; nothing is written then.
    """
    names = [path.name for path in listed(folder, IMAGE_SUFFIXES, "JPEG images")]
    groups = [[name for name in names if name.endswith(suffix)] for suffix in IMAGE_SUFFIXES]
    rows, bad = [], []
    for index, name in track([item for group in groups for item in enumerate(group)], "reading images"):
        path = os.path.join(folder, name)
        image = try_read_image(path)
        if isinstance(image, UnreadableImage):
            bad.append((path, image))
        else:
            rows.append(Row(index, path, image.shape[1], image.shape[0]))
    if bad:
        raise UserError(f"{len(bad)} {undecodable(bad)}; {out} was not written")
    return _write(out, rows)


def write_rows(out: str | Path, rows: Sequence[tuple[str, int, int]]) -> int:
    """Write rows of (path, width, height), numbered from 0."""
    return _write(out, [Row(index, *row) for index, row in enumerate(rows)])


def _write(out: str | Path, rows: list[Row]) -> int:
    broken = [row.path for row in rows if printable(row.path) != row.path]
    if broken:  # a line feed in a name would start a new row
        raise UserError(f"{len(broken)} names have control characters, e.g. {printable(broken[0])}: rename the files")
    write_whole(out, "".join(f"{row}\n" for row in rows))
    return len(rows)


def read_info(path: str | Path) -> list[Row]:
    """Read an info file; paths may contain blanks.

    Raises:
        UserError: the file is absent or empty, or a line is malformed; the message has its number.
    """
    rows = []
    for number, line in enumerate(read_text(path, "info file").splitlines(), start=1):
        if not line.strip():
            continue
        parts = line.split(" ")
        numbers = [parts[0], *parts[-2:]]
        if len(parts) < 4 or not all(part.isdecimal() and len(part) < 19 for part in numbers):
            raise UserError(
                f"{path}, line {number}: expected '<index> <path> <width> <height>', found '{printable(line[:120])}'"
            )
        index, width, height = map(int, numbers)
        if not width or not height:
            raise UserError(f"{path}, line {number}: width and height must not be 0")
        rows.append(Row(index, " ".join(parts[1:-2]), width, height))
    if not rows:
        raise UserError(f"the info file {path} is empty")
    return rows


def by_stem(rows: Sequence[Row]) -> dict[str, Row]:
    """Map stems of files to rows."""
    return {stem(row.path): row for row in rows}
