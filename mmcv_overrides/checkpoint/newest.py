"""Finds the checkpoint to resume from: the newest one that can be read."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from ..errors import UserError
from .ranks import on_master
from .reading import load, peek

_PATTERNS = ("epoch_*.pth", "iter_*.pth")


def newest_readable(work_dir: str | Path, log: Any = None) -> Path | None:
    """The checkpoint with the most iterations in ``work_dir`` that can be read in full, or None.

    Candidates are what ``latest.pth`` and ``last_checkpoint`` name, and every epoch_N.pth and iter_N.pth. Each
    one that cannot be read (truncated, refused, without training state) is named in a warning.

    Args:
        log: a logging.Logger; default the current one of mmengine.
    """
    ranked = []
    for path in candidates(Path(work_dir)):
        try:
            ranked.append((*_progress(path), path.stat().st_mtime, path))
        except (UserError, OSError) as error:
            _warn(path, error, log)
    for *_, path in sorted(ranked, reverse=True):
        try:
            load(path)
            return path
        except UserError as error:
            _warn(path, error, log)
    return None


def candidates(work_dir: Path) -> list[Path]:
    """Files that may be checkpoints to resume from, each once, whether readable or not."""
    paths = [p for pattern in _PATTERNS for p in work_dir.glob(pattern)]
    latest, note = work_dir / "latest.pth", work_dir / "last_checkpoint"
    if latest.exists():
        paths.append(latest)
    if note.is_file():
        named = note.read_text(errors="replace").strip()
        if named and "://" not in named and Path(named).is_file():
            paths.append(Path(named))
    unique: dict[Path, Path] = {}
    for path in paths:
        unique.setdefault(path.resolve(), path.resolve() if path.is_symlink() else path)
    return list(unique.values())


def _progress(path: Path) -> tuple[int, int]:
    """(iterations, epochs) of a checkpoint."""
    meta = peek(path).get("meta")
    if not isinstance(meta, dict) or not {"iter", "epoch"} <= meta.keys():
        raise UserError(f"checkpoint {path} has no training state to resume from; use it with --load-from")
    return int(meta["iter"]), int(meta["epoch"])


def _warn(path: Path, error: Exception, log: Any) -> None:
    print_log(f"passed over {path.name}: {error}", logger=log or "current", level=logging.WARNING)


def find_latest_checkpoint(path: str) -> str | None:
    """Stands in for mmengine's: what :func:`newest_readable` finds, decided by rank 0 for all ranks.

    Raises:
        UserError: there are checkpoints, but none can be read (upstream would train anew over them).
    """

    def find() -> str | None:
        found = newest_readable(path)
        if found is None and candidates(Path(path)):
            raise UserError(
                f"none of the checkpoints in {path} can be read (see the warnings above); "
                "give one with --resume PATH, or train anew in another --work-dir"
            )
        return None if found is None else str(found)

    return on_master(find)
