"""A run owns its folder: a lock against other processes, and a record of the checkpoints that belong to the run.

``.run.lock`` is locked by the operating system while the process lives, so no lock survives a crash; the file names the
holder. ``run.json`` names the run that owns the folder::

    {"run": "77b0...", "started": "2026-01-31T12:00:00+00:00",
     "lineage": [["1f3a...", 600], ["77b0...", null]], "checkpoints": null, "validated": [300, 600]}

``lineage`` lists the runs that make up this training, oldest first: one for the first start and one for each resume,
each with the last iteration that counts (null: all). A checkpoint has the id of its run in ``meta["run"]``.
``validated`` lists the iterations after which a validation was completed (null: not known).
"""

from __future__ import annotations

import datetime
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_json

LOCK = ".run.lock"
RECORD = "run.json"
DYING_S = 10.0  # loader workers of a killed process end within about 5 s and may hold its lock until then

_held: dict[Path, FileLock] = {}


class Occupied(UserError):
    """Another process holds the folder."""


@dataclass(frozen=True)
class Record:
    """Content of ``run.json``; see the module docstring."""

    run: str
    started: str = ""
    lineage: list[tuple[str, int | None]] = field(default_factory=list)
    checkpoints: str | None = None  # their folder, if it is another one
    validated: list[int] | None = None

    def owns(self, run: str, iteration: int) -> bool:
        """Whether a checkpoint of ``run`` (empty if it names none) at ``iteration`` belongs to this training."""
        return any(run == known and (until is None or iteration <= until) for known, until in self.lineage)

    def runs(self) -> list[str]:
        """The ids of all runs of this training."""
        return [run for run, _ in self.lineage]

    def continued(self, run: str, iteration: int) -> list[tuple[str, int | None]]:
        """The lineage up to a checkpoint of ``run`` at ``iteration``; that run alone if it is of another training."""
        if not self.owns(run, iteration):
            return [(run, iteration)]
        place = self.runs().index(run)
        return [*self.lineage[:place], (run, iteration)]


def hold(folder: Path) -> bool:
    """Lock the folder for this process until :func:`release` or the end of the process.

    Returns:
        False if this process holds it already.

    Raises:
        Occupied: another process holds it; the message names it.
        UserError: the folder cannot be written.
    """
    folder = Path(folder).resolve()
    if folder in _held:
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, is_singleton=False)
        _acquire(lock, folder)
    except OSError as error:
        raise UserError(f"work dir {folder} cannot be used: {error.strerror or error}") from error
    _held[folder] = lock
    return True


def _acquire(lock: FileLock, folder: Path) -> None:
    deadline = time.monotonic() + DYING_S
    while True:
        try:
            lock.acquire(blocking=False)
            break
        except Timeout:
            owner = _owner(folder)
            if not _has_died(owner) or time.monotonic() > deadline:
                raise Occupied(f"work dir {folder} is in use by {_name(owner)}") from None
            time.sleep(0.2)
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "since": _now()}
    (folder / LOCK).write_text(json.dumps(mine) + "\n", encoding="utf-8")  # in place, because the lock is on this file


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _owner(folder: Path) -> dict | None:
    """What the holder wrote to the lock file; None before it has done so."""
    try:
        found = json.loads((folder / LOCK).read_text(encoding="utf-8"))
        return {"host": str(found["host"]), "pid": int(found["pid"]), "since": str(found["since"])}
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _has_died(owner: dict | None) -> bool:
    if owner is None or owner["host"] != socket.gethostname():
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:  # alive, and of another user
        return False
    return False


def _name(owner: dict | None) -> str:
    if owner is None:
        return "another process"
    return f"process {owner['pid']} on {owner['host']} (since {owner['since']})"


def renew(folder: Path, record: Record) -> bool:
    """Take a folder again that was removed while this process held it.

    Returns:
        False if nothing is missing.

    Raises:
        Occupied, UserError: as :func:`hold`.
    """
    folder = Path(folder)
    if (folder / RECORD).exists() and (folder / LOCK).exists():
        return False
    if not (folder / LOCK).exists():
        release(folder)
        hold(folder)
    write_record(folder, record)
    return True


def release(folder: Path) -> None:
    """Unlock a folder that :func:`hold` locked; no effect on other folders."""
    lock = _held.pop(Path(folder).resolve(), None)
    if lock is not None:
        lock.release()


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """:func:`hold` the folder within a ``with`` block.

    Raises:
        Occupied, UserError: as :func:`hold`.
    """
    newly = hold(folder)
    try:
        yield
    finally:
        if newly:
            release(folder)


def begin(folder: Path, resumed: tuple[str, int] | None = None, checkpoints: Path | None = None) -> Record:
    """Record a new run in a folder that is held.

    Args:
        folder: the work folder.
        resumed: run id (may be empty) and iteration of the checkpoint that the run continues.
        checkpoints: the folder of its checkpoints, if it is another one.
    """
    run = uuid.uuid4().hex[:16]
    lineage: list[tuple[str, int | None]] = []
    validated: list[int] | None = []
    if resumed is not None:
        before = read_record(folder) or Record(run="")
        lineage = before.continued(*resumed)
        known = before.validated if before.owns(*resumed) else None
        validated = None if known is None else [iteration for iteration in known if iteration <= resumed[1]]
    record = Record(
        run=run,
        started=_now(),
        lineage=[*lineage, (run, None)],
        checkpoints=None if checkpoints is None else str(checkpoints),
        validated=validated,
    )
    write_record(folder, record)
    return record


def write_record(folder: Path, record: Record) -> None:
    """Replace the record of a folder.

    Raises:
        UserError: it cannot be written.
    """
    write_json(Path(folder) / RECORD, asdict(record))


def read_record(folder: Path) -> Record | None:
    """The record of a folder; None if there is none or it is damaged."""
    try:
        found = json.loads((Path(folder) / RECORD).read_text(encoding="utf-8"))
        lineage = [(str(run), None if until is None else int(until)) for run, until in found["lineage"]]
        where, validated = found.get("checkpoints"), found.get("validated")
        return Record(
            run=str(found["run"]),
            started=str(found.get("started", "")),
            lineage=lineage,
            checkpoints=None if where is None else str(where),
            validated=None if validated is None else [int(iteration) for iteration in validated],
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
