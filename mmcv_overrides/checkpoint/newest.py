"""Finds the checkpoint to resume from: the newest readable one of the folder's run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from mmcv_overrides.checkpoint.reading import load, peek
from mmcv_overrides.errors import UserError
from mmcv_overrides.parallel import on_master
from mmcv_overrides.run_folder import Record, read_record

_PATTERNS = ("epoch_*.pth", "iter_*.pth")


def newest_readable(work_dir: str | Path, log: Any = None) -> Path | None:
    """The newest checkpoint of the run in ``work_dir`` that can be read in full, or None.

    Candidates are all epoch_N.pth and iter_N.pth, and the files that ``latest.pth`` and ``last_checkpoint`` name. If
    ``run.json`` names the run, only its own checkpoints count, and the newest has the most iterations of its last
    start. A folder without that file, or one in which plain mmengine has trained since, may hold checkpoints of several
    runs: the file that ``latest.pth`` or ``last_checkpoint`` names comes first, then the last written one; without
    either name the one with the most iterations. A warning names each file that is skipped (truncated, refused, without
    training state, of another run).

    Args:
        work_dir: the folder.
        log: a logging.Logger; default the current one of mmengine.
    """
    folder = Path(work_dir)
    record = read_record(folder)
    if record is not None and _went_on_without_us(folder, record):
        record = None
    named = _named(folder, record)
    ranked: list[tuple[tuple[float, ...], Path]] = []
    for path in candidates(folder):
        try:
            iterations, epochs, run = progress(path)
            written = path.stat().st_mtime
        except (UserError, OSError) as error:
            _warn(path, error, log)
            continue
        if record is None:
            first = path.resolve() in named
            ranked.append(((first, written if named else 0, iterations, epochs, written), path))
        elif record.owns(run, iterations):
            # A run that continues with larger steps has done fewer of them than the one before it.
            ranked.append(((record.runs().index(run), iterations, epochs, written), path))
        else:
            _warn(path, f"it is of another run than run.json names; it can be resumed by its path, {path}", log)
    for _, path in sorted(ranked, reverse=True):
        try:
            load(path)
            return path
        except UserError as error:
            _warn(path, error, log)
    return None


def candidates(work_dir: Path) -> list[Path]:
    """Files that may be checkpoints to resume from, each once, readable or not."""
    record = read_record(work_dir)
    folders = [work_dir, *([Path(record.checkpoints)] if record and record.checkpoints else [])]
    paths = [p for folder in folders for pattern in _PATTERNS for p in folder.glob(pattern)]
    paths += _named(work_dir, record)
    unique: dict[Path, Path] = {}
    for path in paths:
        unique.setdefault(path.resolve(), path.resolve() if path.is_symlink() else path)
    return list(unique.values())


def _went_on_without_us(work_dir: Path, record: Record) -> bool:
    """Whether ``last_checkpoint`` names a file of plain mmengine, which knows no runs, after the recorded run."""
    for path in _noted(work_dir, record):
        try:
            iterations, _, run = progress(path)
        except (UserError, OSError):
            continue
        if not run and not record.owns(run, iterations):
            return True
    return False


def _named(work_dir: Path, record: Record | None) -> list[Path]:
    """Resolved paths that ``latest.pth`` and ``last_checkpoint`` name, within the run's own folders."""
    latest, places = work_dir / "latest.pth", _places(work_dir, record)
    found = [latest.resolve()] if latest.exists() else []
    found = [path for path in found if places is None or path.parent in places]
    return list(dict.fromkeys([*found, *_noted(work_dir, record)]))


def _noted(work_dir: Path, record: Record | None) -> list[Path]:
    """The path in ``last_checkpoint``, as mmengine writes it, or the file of that name in a copy of the folder."""
    note, places = work_dir / "last_checkpoint", _places(work_dir, record)
    text = note.read_text(errors="replace").strip() if note.is_file() else ""
    if not text or "://" in text:
        return []
    paths = [path.resolve() for path in (work_dir / text, Path(text), work_dir / Path(text).name) if path.is_file()]
    return [path for path in paths if places is None or path.parent in places][:1]


def _places(work_dir: Path, record: Record | None) -> set[Path] | None:
    """Folders of this run's checkpoints; None (any) if mmengine itself wrote them into a folder outside ``work_dir``.

    In a copy of a work folder mmengine's ``last_checkpoint`` still has the path of the original, which is not followed.
    """
    if record is not None:
        return {Path(folder).resolve() for folder in (work_dir, record.checkpoints) if folder is not None}
    inside = any(True for pattern in _PATTERNS for _ in work_dir.glob(pattern))
    return {work_dir.resolve()} if inside else None


def progress(path: Path) -> tuple[int, int, str]:
    """(iterations, epochs, id of the run) of a checkpoint."""
    meta = peek(path).get("meta")
    if not isinstance(meta, dict) or not {"iter", "epoch"} <= meta.keys():
        raise UserError(f"checkpoint {path} has no training state to resume from; load its weights with load_from")
    return int(meta["iter"]), int(meta["epoch"]), str(meta.get("run", ""))


def _warn(path: Path, error: Exception | str, log: Any) -> None:
    print_log(f"skipped {path.name}: {error}", logger=log or "current", level=logging.WARNING)


def find_latest_checkpoint(path: str) -> str | None:
    """Replaces mmengine's by :func:`newest_readable`, decided by rank 0 for all ranks.

    Raises:
        UserError: there are checkpoints, but none can be read (upstream would start a new training over them).
    """

    def find() -> str | None:
        found = newest_readable(path)
        if found is None and candidates(Path(path)):
            raise UserError(
                f"none of the checkpoints in {path} can be read (see the warnings above); "
                "name the one to resume, or start a new training in another work_dir",
                setting="resume",
            )
        return None if found is None else str(found)

    return on_master(find)
