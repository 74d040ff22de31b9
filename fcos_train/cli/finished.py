"""What a training on a terminal ends with: its best checkpoint, its speed, where its files are, what comes next."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from fcos_train import progress
from fcos_train.report.summary import summarise
from mmcv_overrides.printable import printable

REPORT = Path("report", "index.html")


def show_finished(folder: Path) -> None:
    """Print the summary of the run in ``folder`` where stdout is a terminal with bars; nothing elsewhere."""
    if not progress.shows(sys.stdout):
        return
    from rich.text import Text

    console = progress.console(sys.stdout)
    console.rule("training finished")
    for name, value in _rows(folder):  # no table, which would cut a command in two
        console.print(Text.assemble((f"{name:<17}", "bold"), printable(value)), soft_wrap=True)


def best_and_last(folder: Path) -> tuple[Path | None, Path | None]:
    """The checkpoint of the best evaluation and ``latest.pth`` in a work dir; None where there is none."""
    latest = folder / "latest.pth"
    return max(folder.glob("best_*.pth"), key=os.path.getmtime, default=None), latest if latest.exists() else None


def _rows(folder: Path) -> list[tuple[str, str]]:
    """Name and value of each line."""
    found = summarise(folder)
    best, last = best_and_last(folder)
    rows = []
    if best is not None:
        score = "" if found.accuracy is None else f"  (bbox_mAP {found.accuracy:.4f}, epoch {found.accuracy_epoch})"
        rows.append(("best checkpoint", _short(best) + score))
    if last is not None:
        rows.append(("last checkpoint", _short(last)))
    if found.fps is not None:
        rows.append(("images/s", f"{found.fps:.2f}  (without warm-up and evaluation)"))
    if (folder / REPORT).is_file():
        rows.append(("report", _short(folder / REPORT)))
    rows.append(("log and curves", f"{_short(folder)}{os.sep}"))
    checkpoint = best or last
    if checkpoint is not None:
        name = shlex.quote(_short(checkpoint))
        rows.append(("next", f"fcos-train demo {name} --img FILE_OR_FOLDER"))
        rows.append(("", f"fcos-train export {name}"))
    return rows


def _short(path: Path) -> str:
    """The path as it can be typed here."""
    return os.path.relpath(path) if path.absolute().is_relative_to(Path.cwd()) else str(path)
