"""``fcos-train doctor``: look at the installation, name each problem with the command that repairs it.

Nothing is imported at the top that may be broken: this verb has to run when torch, mmcv or OpenCV do not.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import Annotated

from fcos_train import progress
from fcos_train.config.fields import Option, Options
from fcos_train.doctor.checks import Check, run_checks
from fcos_train.doctor.opencv import fix_opencv

MARKS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}
STYLES = {"ok": "green", "note": "yellow", "PROBLEM": "bold red"}


@dataclass(frozen=True)
class DoctorOptions(Options):
    """Whether to repair, and how to print."""

    fix: Annotated[
        bool, Option("repair OpenCV: of two builds installed over each other, keep the one that needs no libGL")
    ] = False
    json: Annotated[bool, Option("print one JSON object")] = False


def run(options: DoctorOptions) -> int:
    """Check the installation.

    Exit status 0: healthy; 1: problems, each with the command that repairs it.
    """
    # With --json only the object goes to stdout.
    log = _to_stderr if options.json else print
    fixed = fix_opencv(log) if options.fix else True
    found = run_checks()
    healthy = fixed and all(one.status != "problem" for one in found)
    if options.json:
        print(json.dumps({"healthy": healthy, "checks": [asdict(one) for one in found]}, indent=2))
    else:
        _print(found, healthy)
    return 0 if healthy else 1


def _rows(one: Check) -> list[tuple[str, str, str]]:
    """Mark, name and detail of a check; and what repairs it."""
    return [(MARKS[one.status], one.name, one.detail), *([("", "", f"fix: {one.fix}")] if one.fix else [])]


def _print_table(rows: list[tuple[str, str, str]]) -> bool:
    """Print the rows for a terminal, long details folded in their column; False where rich does not import."""
    try:
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    table = Table.grid(padding=(0, 2))
    for mark, name, text in rows:
        table.add_row(Text(mark, STYLES.get(mark, "")), name, Text(text))
    progress.console(sys.stdout).print(table)
    return True


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def _print(found: list[Check], healthy: bool) -> None:
    rows = [row for one in found for row in _rows(one)]
    if not (progress.shows(sys.stdout) and _print_table(rows)):
        width = max(len(one.name) for one in found)
        for mark, name, text in rows:
            print(f"{mark:8}{name:{width}}  {text}")
    problems = sum(one.status == "problem" for one in found)
    print("healthy" if healthy else f"{problems} problem{'s' * (problems != 1)}")
