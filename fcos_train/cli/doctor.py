"""`fcos-train doctor`: look at the installation, name each problem with the command that mends it.

Nothing is imported at the top that may be broken: this verb has to run when torch, mmcv or OpenCV do not.
"""

import argparse
import json
import sys
from dataclasses import asdict

from fcos_train.doctor.checks import Check, run_checks
from fcos_train.doctor.opencv import fix_opencv

MARKS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}


def add_parser(subparsers) -> argparse.ArgumentParser:
    parser = subparsers.add_parser(
        "doctor",
        help="check the installation and say how to mend it",
        description="Check the installation. Exit status 0: healthy; 1: problems, each with the command that mends it.",
    )
    parser.add_argument(
        "--fix",
        action="store_true",
        help="mend OpenCV: of two builds installed over each other, keep the one that needs no libGL",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def run(args: argparse.Namespace) -> int:
    """0 healthy, 1 with problems."""
    # With --json only the object goes to stdout.
    log = _to_stderr if args.json else print
    fixed = fix_opencv(log) if args.fix else True
    checks = run_checks()
    healthy = fixed and all(check.status != "problem" for check in checks)
    if args.json:
        print(json.dumps({"healthy": healthy, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        _print(checks, healthy)
    return 0 if healthy else 1


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def _print(checks: list[Check], healthy: bool) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"{MARKS[check.status]:8}{check.name:{width}}  {check.detail}")
        if check.fix:
            print(f"{'':8}{'':{width}}  mend it: {check.fix}")
    problems = sum(check.status == "problem" for check in checks)
    print("healthy" if healthy else f"{problems} problem{'s' * (problems != 1)}")
