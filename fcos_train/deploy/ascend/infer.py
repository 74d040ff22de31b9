"""Runs a model over `.bin` files and leaves the files that `benchmark` or `ais_infer` would leave.

`benchmark`: `<output>/dumpOutput_device<id>/<stem>_<k>.bin`, k from 1, and the perf text beside the folder.
`ais_infer`: `<output>/<time>/<stem>_<i>.bin`, i from 0, and `<time>_summary.json` beside the folder.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_whole

from .files import listed, progress, some, unique_stems
from .info import read_info
from .session import Session

FORMATS = ("BIN", "TXT", "NPY")


@dataclass
class Clocks:
    """Seconds of each call, by part of the work; `start` and `end` enclose all of it."""

    start: float = 0.0
    end: float = 0.0
    reading: list[float] = field(default_factory=list)
    preparing: list[float] = field(default_factory=list)
    computing: list[float] = field(default_factory=list)
    writing: list[float] = field(default_factory=list)
    samples: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a run left: the folder of results, the clocks, and for each call its input and output files."""

    folder: Path
    clocks: Clocks
    calls: list[tuple[list[str], list[str]]]


def inputs_of(where: str) -> list[Path]:
    """The `.bin` files named by an info file, a folder, or a list with commas.

    Raises:
        UserError: some of them do not exist; nothing has run then.
    """
    if Path(where).is_dir():
        return listed(where, (".bin",), ".bin files")
    if where.endswith(".info"):
        files = [Path(row.path) for row in read_info(where)]
    else:
        files = [Path(name) for name in where.split(",") if name]
    absent = [path for path in files if not path.is_file()]
    if absent or not files:
        raise UserError(f"{where}: {len(absent)} of {len(files)} input files do not exist: {some(absent)}")
    return files


def check_sizes(files: Sequence[Path], session: Session) -> None:
    """Refuse files that do not hold exactly one input, before anything has run."""
    bad = [(path, size) for path in files if (size := path.stat().st_size) != session.sample_bytes]
    if bad:
        path, size = bad[0]
        raise UserError(
            f"{path} has {size} bytes, but {session.path} takes {session.sample_bytes} per image "
            f"(3 x {session.height} x {session.width} float32); {len(bad)} of {len(files)} files are of a wrong size"
        )


def run_files(
    session: Session, files: Sequence[Path], folder: Path, first: int, fmt: str = "BIN"
) -> Outcome:
    """Run all files, a batch at a time; the last batch is filled up with its last image.

    Args:
        folder: where `<stem>_<number>.<format>` go, one file per image and output.
        first: the number of the first output, 0 or 1.
        fmt: BIN (raw little-endian), TXT or NPY.
    """
    check_sizes(files, session)
    names = list(unique_stems(files))
    clocks, calls = Clocks(start=time.perf_counter()), []
    bar = progress(range(0, len(files), session.batch), "infer", -(-len(files) // session.batch))
    for begin in bar:
        chunk, stems = files[begin : begin + session.batch], names[begin : begin + session.batch]
        images = _timed(clocks.reading, lambda chunk=chunk: [np.fromfile(path, "<f4") for path in chunk])
        images += images[-1:] * (session.batch - len(chunk))
        shape = (session.batch, 3, session.height, session.width)
        batch = _timed(clocks.preparing, lambda images=images, shape=shape: np.concatenate(images).reshape(shape))
        outputs = _timed(clocks.computing, lambda batch=batch: session.run(batch))
        mark = time.perf_counter()
        written = []
        for name, arrays in zip(stems, session.per_sample(outputs), strict=False):
            for number, array in enumerate(arrays, start=first):
                path = folder / f"{name}_{number}.{fmt.lower()}"
                written.append(str(write_whole(path, _encoded(array, fmt))))
        clocks.writing.append(time.perf_counter() - mark)
        clocks.samples += len(chunk)
        calls.append(([str(path) for path in chunk], written))
    clocks.end = time.perf_counter()
    return Outcome(folder, clocks, calls)


def run_empty(session: Session, rounds: int) -> list[float]:
    """Seconds of each of `rounds` calls on zeros, after one call that does not count."""
    batch = np.zeros((session.batch, 3, session.height, session.width), np.float32)
    session.run(batch)
    seconds: list[float] = []
    for _ in progress(range(rounds), "pure inference"):
        _timed(seconds, lambda: session.run(batch))
    return seconds


def _timed(seconds: list[float], work):
    mark = time.perf_counter()
    result = work()
    seconds.append(time.perf_counter() - mark)
    return result


def _encoded(array: np.ndarray, fmt: str) -> bytes:
    array = np.ascontiguousarray(array)
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if fmt == "NPY":
        buffer = io.BytesIO()
        np.save(buffer, array)
        return buffer.getvalue()
    if fmt == "TXT":
        rows = array.reshape(-1, array.shape[-1] if array.ndim > 1 else 1)
        return "".join(" ".join(f"{value:g}" for value in row) + "\n" for row in rows.tolist()).encode()
    return array.tobytes()
