"""Runs a model over `.bin` files and writes the files that `benchmark` or `ais_infer` would write.

`benchmark`: `<output>/dumpOutput_device<id>/<stem>_<k>.bin`, k from 1, and the perf text beside the folder.
`ais_infer`: `<output>/<time>/<stem>_<i>.bin`, i from 0, and `<time>_summary.json` beside the folder.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fcos_train.deploy.ascend.info import read_info
from fcos_train.deploy.ascend.options import Calls
from fcos_train.deploy.parts.files import listed, some, unique_stems
from fcos_train.deploy.parts.session import Session
from fcos_train.progress import track
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_whole


@dataclass
class Clocks:
    """Seconds of each call, by part of the work; `start` and `end` of the whole run."""

    start: float = 0.0
    end: float = 0.0
    reading: list[float] = field(default_factory=list)
    preparing: list[float] = field(default_factory=list)
    computing: list[float] = field(default_factory=list)
    writing: list[float] = field(default_factory=list)
    samples: int = 0


@dataclass(frozen=True)
class Outcome:
    """Result of a run: the folder of results, the clocks, and for each call its input and output files."""

    folder: Path
    clocks: Clocks
    calls: list[tuple[list[str], list[str]]]


def inputs_of(where: str) -> list[Path]:
    """List the `.bin` files that are given as an info file, a folder, or names separated by commas.

    Raises:
        UserError: some of them do not exist.
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
    """Refuse files that do not contain exactly one input.

    Raises:
        UserError: the message names the first of them.
    """
    bad = [(path, size) for path in files if (size := path.stat().st_size) != session.sample_bytes]
    if bad:
        path, size = bad[0]
        form = "{} x {} x {} " + ("pixels" if session.kind == "u1" else "float32")
        hint = (
            "; these are pixels: say how they are normalised with --aipp-config FILE"
            if 4 * size == session.sample_bytes
            else ""
        )
        raise UserError(
            f"{path} has {size} bytes, but {session.path} takes {session.sample_bytes} per image "
            f"({form.format(*session.shape[1:])}); {len(bad)} of {len(files)} files are of a wrong size{hint}"
        )


def run_files(
    session: Session, files: Sequence[Path], folder: Path, first: int, fmt: str = "BIN", calls: Calls | None = None
) -> Outcome:
    """Run all files in batches; the last batch is padded with its first image.

    Args:
        folder: for `<stem>_<number>.<format>`, one file per image and output.
        first: the number of the first output, 0 or 1.
        fmt: BIN (raw little-endian), TXT or NPY.

    Raises:
        UserError: files of a wrong size; nothing has run then.
    """
    check_sizes(files, session)
    calls = calls or Calls()
    names = list(unique_stems(files))
    for _ in range(calls.warmup):
        session.run(_made_up(session, "zero"))
    clocks, done = Clocks(start=time.perf_counter()), []
    for begin in track(range(0, len(files), session.batch), "running the model"):
        chunk, stems = files[begin : begin + session.batch], names[begin : begin + session.batch]
        with _timed(clocks.reading):
            images = [np.fromfile(path, session.kind) for path in chunk]
        images += images[:1] * (session.batch - len(chunk))
        with _timed(clocks.preparing):
            batch = np.concatenate(images).reshape(session.shape)
        for _ in range(calls.loop):
            with _timed(clocks.computing):
                outputs = session.run(batch)
        with _timed(clocks.writing):
            written = _written(folder, stems, session.per_sample(outputs, calls.output_axis), first, fmt)
        clocks.samples += len(chunk)
        done.append(([str(path) for path in chunk], written))
    clocks.end = time.perf_counter()
    return Outcome(folder, clocks, done)


def run_empty(session: Session, calls: Calls, folder: Path | None = None, fmt: str = "BIN") -> Outcome:
    """Make `calls.loop` timed calls on generated inputs, after the warm-up.

    Args:
        folder: for `pure_infer_data_<i>.<format>`, i from 0; None: no files are written.
    """
    batch = _made_up(session, calls.data)
    for _ in range(calls.warmup):
        session.run(batch)
    clocks = Clocks(start=time.perf_counter(), samples=calls.loop * session.batch)
    for _ in track(range(calls.loop), "running the model"):
        with _timed(clocks.computing):
            outputs = session.run(batch)
    written: list[str] = []
    if folder:
        with _timed(clocks.writing):
            written = _written(folder, ["pure_infer_data"], [outputs], 0, fmt)
    clocks.end = time.perf_counter()
    return Outcome(folder or Path(), clocks, [([], written)])


def _made_up(session: Session, data: str) -> np.ndarray:
    """A generated batch, zero or random."""
    if data == "zero":
        return np.zeros(session.shape, session.kind)
    random = np.random.default_rng()
    return random.integers(0, 256, session.shape).astype(session.kind)


def _written(
    folder: Path, stems: Sequence[str], samples: Sequence[Sequence[np.ndarray]], first: int, fmt: str
) -> list[str]:
    """Write the outputs of each image; samples beyond the stems are padding of the batch."""
    written = []
    for name, arrays in zip(stems, samples, strict=False):
        for number, array in enumerate(arrays, start=first):
            path = folder / f"{name}_{number}.{fmt.lower()}"
            written.append(str(write_whole(path, _encoded(array, fmt))))
    return written


@contextmanager
def _timed(seconds: list[float]) -> Iterator[None]:
    """Append the duration of a block to ``seconds``."""
    mark = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - mark)


def _encoded(array: np.ndarray, fmt: str) -> bytes:
    """An output in one of :data:`FORMATS`."""
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
