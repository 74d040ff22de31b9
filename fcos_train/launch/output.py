"""The output folder of a shell launcher, and what its log says of a failure."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

LINES = 20  # of a log that a failure shows
# Of mmcv_overrides.stopping, in the log; other lines may quote names from the data.
STOPPED = re.compile(r"^[\d-]+ [\d:,]+ - mmdet - INFO - (stopped by SIG.*)$", re.MULTILINE)
TORCHRUN = re.compile(r"[WEI]\d{4} |Traceback")  # where its own lines begin
KILLED = 137


@dataclass(frozen=True)
class Output:
    """A folder under ``test/output`` that this launcher alone writes into.

    Attributes:
        folder: relative to the root of the clone. log: of the training.
        lock: descriptor that holds the folder until this process and the training have both ended.
    """

    folder: Path
    log: Path
    lock: int

    @classmethod
    def claimed(cls, device_id: str, speed_run: bool, node: int) -> Output:
        """``test/output/ID`` for a training, ``ID/performance`` for a speed run; emptied of an earlier run's files.

        Each node but the first has a folder of its own in it (nodes may share a disk). While another launcher writes
        there, -2, -3, ... is appended.
        """
        base = Path("test/output") / device_id
        base = base / "performance" if speed_run else base
        base = base / f"node{node}" if node > 0 else base
        number, folder = 1, base
        while (lock := _locked(folder / ".lock")) is None:
            number += 1
            folder = base.with_name(f"{base.name}-{number}")
        if number > 1:
            print(f"note: another training writes into {base}; this one uses {folder}", flush=True)
        shutil.rmtree(folder / "ckpt", ignore_errors=True)
        for file in folder.iterdir():  # folders belong to other runs
            if file.is_file() and file.name != ".lock":
                file.unlink()
        (folder / "ckpt").mkdir()
        return cls(folder, folder / f"train_{device_id}.log", lock)

    def work_dir(self) -> str | None:
        """The folder that the training chose, which it prints in its first line."""
        said = self._first(r"^work dir: (.*?)(?: \((?:--overwrite: .*|restarted\)))?$")
        return said or None

    def device_kind(self) -> str | None:
        """The kind of device, which the training prints before anything that a data set could say."""
        return self._first(r"^device (cpu|cuda|npu): ")

    def _first(self, pattern: str) -> str | None:
        match = re.search(pattern, _text(self.log), re.MULTILINE)
        return match[1] if match else None


def _locked(file: Path) -> int | None:
    """A descriptor that holds the lock, whose folder is made; None if another process does."""
    file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def stopped_line(log: Path) -> str | None:
    """What the log says of a signal that has stopped the training; None if none has, or if it was restarted."""
    text = _text(log)
    found = STOPPED.findall(text)
    return found[-1] if found and "Epoch [" not in text.rpartition(found[-1])[2] else None


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")


def rank_status(log: Path, status: int) -> int:
    """The status of the rank that failed first. torchrun exits with 1 whatever it was; its error summary has it."""
    code, cause = 0, False
    for line in _text(log).splitlines():
        cause = cause or "Root Cause" in line
        match = re.search(r"exitcode *: *(-?\d+)", line)
        if match:
            code = int(match[1])
            if cause:
                break
    return 128 - code if code < 0 else code or status


def explain_failure(log: Path, status: int, several: bool) -> None:
    """Print the end of the log; of several ranks, after which torchrun's summary is long, the training's message."""
    lines = _text(log).splitlines()
    said = _user_error(lines) if several else []
    if said:
        head = f"error: the training failed with status {status}; it said:"
    else:
        head = f"error: the training failed with status {status}; the last lines of its log:"
        said = lines[-LINES:]
    print("\n".join([head, *(f"    {line}" for line in said)]), file=sys.stderr)
    if status == KILLED:
        print("It was killed: too little memory? Try a smaller --batch_size.", file=sys.stderr)
    print(f"the whole log: {log.absolute()}", file=sys.stderr)


def _user_error(lines: list[str]) -> list[str]:
    """From "error: " to the next rank's copy of it, or to torchrun's own lines."""
    start = next((at for at, line in enumerate(lines) if line.startswith("error: ")), None)
    if start is None:
        return []
    found = [lines[start]]
    for line in lines[start + 1 :]:
        if line.startswith("error: ") or TORCHRUN.match(line):
            break
        found.append(line)
    return found[:LINES]
