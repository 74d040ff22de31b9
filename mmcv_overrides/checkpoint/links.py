"""What surrounds a checkpoint in its folder: the link to the newest, and older files that are no longer kept."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mmcv_overrides.checkpoint.newest import progress
from mmcv_overrides.checkpoint.writing import temporary_suffix
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import replacing, sync_folder, unguessable
from mmcv_overrides.run_folder import Record


def point_latest(folder: Path, name: str) -> None:
    """Atomically make ``folder/latest.pth`` a relative link to ``name``, or a copy where links are not supported."""
    latest = folder / "latest.pth"
    link = unguessable(latest, temporary_suffix())
    try:
        os.symlink(name, link)
    except OSError:
        with open(folder / name, "rb") as source, replacing(latest, temporary_suffix()) as copy:
            shutil.copyfileobj(source, copy)
    else:
        try:
            os.replace(link, latest)
        except OSError:
            with suppress(OSError):
                link.unlink()
            raise
        sync_folder(folder)


def remove_expired(folder: Path, name: str, kept: Sequence[int], record: Record) -> None:
    """Delete checkpoints of a run that a kill has kept it from deleting: its own, and older than those it keeps.

    Args:
        name: of its checkpoints, with ``{}`` for the number. kept: the numbers of those that are kept.
    """
    if not kept or name.count("{}") != 1:
        return
    head, tail = name.split("{}")
    for path in folder.glob(f"{glob.escape(head)}*{glob.escape(tail)}"):
        number = path.name.removeprefix(head).removesuffix(tail)
        if path.is_symlink() or not number.isdecimal() or int(number) >= min(kept):
            continue
        with suppress(UserError, OSError):
            iterations, _, run = progress(path)
            if record.owns(run, iterations):
                path.unlink()
