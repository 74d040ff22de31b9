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

from fcos_train.deploy.ascend.info import read_info
from fcos_train.deploy.ascend.options import Calls
from fcos_train.deploy.parts.files import listed, progress, some, unique_stems
from fcos_train.deploy.parts.session import Session
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_whole


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
    """Run all files, a batch at a time; the last batch is filled up with its first image.

    Args:
        folder: where `<stem>_<number>.<format>` go, one file per image and output.
        first: the number of the first output, 0 or 1.
        fmt: BIN (raw little-endian), TXT or NPY.
    """
    check_sizes(files, session)
    calls = calls or Calls()
    names = list(unique_stems(files))
    for _ in range(calls.warmup):
        session.run(_made_up(session, "zero"))
    clocks, done = Clocks(start=time.perf_counter()), []
    bar = progress(range(0, len(files), session.batch), "infer", -(-len(files) // session.batch))
    for begin in bar:
        chunk, stems = files[begin : begin + session.batch], names[begin : begin + session.batch]
        images = _timed(clocks.reading, lambda chunk=chunk: [np.fromfile(path, session.kind) for path in chunk])
        images += images[:1] * (session.batch - len(chunk))
        batch = _timed(clocks.preparing, lambda images=images: np.concatenate(images).reshape(session.shape))
        for _ in range(calls.loop):
            outputs = _timed(clocks.computing, lambda batch=batch: session.run(batch))
        written = _timed(clocks.writing, lambda stems=stems, outputs=outputs: _leave(
            folder, stems, session.per_sample(outputs, calls.output_axis), first, fmt
        ))  # fmt: skip
        clocks.samples += len(chunk)
        done.append(([str(path) for path in chunk], written))
    clocks.end = time.perf_counter()
    return Outcome(folder, clocks, done)


def run_empty(session: Session, calls: Calls, folder: Path | None = None, fmt: str = "BIN") -> Outcome:
    """`calls.loop` calls on made-up inputs, after those that do not count.

    Args:
        folder: where `pure_infer_data_<i>.<format>` go, i from 0; None leaves no files.
    """
    batch = _made_up(session, calls.data)
    for _ in range(calls.warmup):
        session.run(batch)
    clocks = Clocks(start=time.perf_counter(), samples=calls.loop * session.batch)
    for _ in progress(range(calls.loop), "pure inference"):
        outputs = _timed(clocks.computing, lambda: session.run(batch))
    written: list[str] = []
    if folder:
        written = _timed(clocks.writing, lambda: _leave(folder, ["pure_infer_data"], [outputs], 0, fmt))
    clocks.end = time.perf_counter()
    return Outcome(folder or Path(), clocks, [([], written)])


def _made_up(session: Session, data: str) -> np.ndarray:
    if data == "zero":
        return np.zeros(session.shape, session.kind)
    random = np.random.default_rng()
    return random.integers(0, 256, session.shape).astype(session.kind)


def _leave(
    folder: Path, stems: Sequence[str], samples: Sequence[Sequence[np.ndarray]], first: int, fmt: str
) -> list[str]:
    """Write the outputs of each image; more samples than stems only filled the batch up."""
    written = []
    for name, arrays in zip(stems, samples, strict=False):
        for number, array in enumerate(arrays, start=first):
            path = folder / f"{name}_{number}.{fmt.lower()}"
            written.append(str(write_whole(path, _encoded(array, fmt))))
    return written


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
