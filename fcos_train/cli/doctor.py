"""``fcos-train doctor``: look at the installation, name each problem with the command that repairs it.

Nothing is imported at the top that may be broken: this verb has to run when torch, mmcv or OpenCV do not.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import Annotated

from fcos_train.config.fields import Option, Options
from fcos_train.doctor.checks import Check, run_checks
from fcos_train.doctor.opencv import fix_opencv

MARKS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}


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


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def _print(found: list[Check], healthy: bool) -> None:
    width = max(len(one.name) for one in found)
    for one in found:
        print(f"{MARKS[one.status]:8}{one.name:{width}}  {one.detail}")
        if one.fix:
            print(f"{'':8}{'':{width}}  fix: {one.fix}")
    problems = sum(one.status == "problem" for one in found)
    print("healthy" if healthy else f"{problems} problem{'s' * (problems != 1)}")
