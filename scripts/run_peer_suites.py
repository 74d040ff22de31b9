"""Runs mmengine's, mmcv's and mmdet's own tests without and with ``mmcv_overrides.activate()``, compares the outcomes.

    python scripts/run_peer_suites.py --mmengine onedl-mmengine-0.10.12 --mmcv onedl-mmcv-2.3.6 --mmdet mmdetection

Each folder is an unpacked source distribution or a checkout. Only its ``tests`` are used: they run from a copy in a
temporary folder, against the installed packages. "Without" is the installed packages as they are; those of mmcv and
mmdet also get the portable operators there, without which they cannot be imported.

For each suite the counts of both runs are printed, then every test that passes without the overrides and does not pass
with them. Tests that fail on purpose are listed in ``peer_differences.toml`` with the reason. Exit status: 0 if there
are no others, 1 if there are, 2 if a suite could not be run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIFFERENCES = Path(__file__).with_name("peer_differences.toml")
OPERATORS = "import mmcv_overrides.ops; mmcv_overrides.ops.install()"
OVERRIDES = "import mmcv_overrides.auto"


@dataclass(frozen=True)
class Suite:
    """A folder of tests of one project; ``before`` is run in every process of the run without the overrides."""

    project: str
    folder: str
    before: str = ""

    @property
    def name(self) -> str:
        return f"{self.project}/{self.folder}"


MMENGINE = ("hooks", "runner", "optim", "model", "evaluator", "logging", "dist", "device")
SUITES = [
    *(Suite("mmengine", f"test_{part}") for part in MMENGINE),
    Suite("mmcv", "test_ops", OPERATORS),
    *(Suite("mmdet", f"test_{part}", OPERATORS) for part in ("evaluation", "datasets")),
]


def outcomes(report: Path) -> dict[str, str]:
    """Outcome (passed, failed, skipped) of each test in a JUnit file. A test fails if one of its sub-tests does."""
    found: dict[str, str] = {}
    rank = ("skipped", "passed", "failed")
    for case in ET.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        name = f"{case.get('classname')}::{case.get('name')}"
        found[name] = max(found.get(name, outcome), outcome, key=rank.index)
    return found


def run(suite: Suite, source: Path, statement: str, keep: Path, timeout: int) -> dict[str, str]:
    """Run a suite in processes that all execute ``statement`` at their start.

    Returns:
        the outcome of each test; empty if pytest wrote no report.
    """
    with tempfile.TemporaryDirectory(prefix="peer-suite-") as scratch:
        folder = Path(scratch)
        shutil.copytree(source / "tests", folder / "tests")
        (folder / "start").mkdir()
        # Python imports this module at the start of every process, also of those that tests spawn.
        guard = 'import sys\nif not any("resource_tracker" in part for part in sys.orig_argv):\n    '
        start = f"{guard}{statement or 'pass'}\n"
        (folder / "start" / "sitecustomize.py").write_text(start, encoding="utf-8")
        report = folder / "report.xml"
        paths = [str(folder / "start"), str(ROOT), os.environ.get("PYTHONPATH", "")]
        command = [sys.executable, "-m", "pytest", f"tests/{suite.folder}", "-q", "--rootdir=."]
        command += ["-p", "no:cacheprovider", "--continue-on-collection-errors", f"--timeout={timeout}"]
        command += [f"--junitxml={report}", "-o", "junit_family=xunit1"]
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONSAFEPATH": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        keep.write_text(done.stdout, encoding="utf-8")
        return outcomes(report) if report.is_file() else {}


def counts(found: dict[str, str]) -> str:
    """``passed / failed / skipped``."""
    number = Counter(found.values())
    return f"{number['passed']} / {number['failed']} / {number['skipped']}"


def known_differences(path: Path = DIFFERENCES) -> dict[str, str]:
    """Test -> reason, from the list of deliberate differences."""
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["difference"]
    return {f"{entry['suite']} {entry['test']}": entry["reason"] for entry in entries}


def compare(suite: Suite, base: dict[str, str], ours: dict[str, str], known: dict[str, str]) -> list[str]:
    """Print what passes without the overrides and not with them. Returns those that are not listed."""
    unlisted = []
    for test in sorted(name for name, outcome in base.items() if outcome == "passed"):
        if ours.get(test, "missing") == "passed":
            continue
        reason = known.get(f"{suite.name} {test}")
        print(f"    {test}: {ours.get(test, 'missing')}; {reason or 'NOT LISTED'}", flush=True)
        if reason is None:
            unlisted.append(f"{suite.name} {test}")
    won = sorted(name for name, outcome in ours.items() if outcome == "passed" and base.get(name) == "failed")
    if won:
        print(f"    passes only with the overrides: {', '.join(won)}", flush=True)
    return unlisted


def main() -> int:
    """The program; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for project in ("mmengine", "mmcv", "mmdet"):
        parser.add_argument(
            f"--{project}", type=Path, metavar="FOLDER", help="source tree; its suites are left out if not given"
        )
    parser.add_argument("--suite", action="append", choices=[s.name for s in SUITES], help="only this one; repeatable")
    parser.add_argument("--logs", type=Path, default=Path("work_dirs/peer_suites"), help="folder for pytest's output")
    parser.add_argument("--timeout", type=int, default=300, help="seconds for one test")
    args = parser.parse_args()
    sources = {project: getattr(args, project) for project in ("mmengine", "mmcv", "mmdet")}
    wanted = [s for s in SUITES if sources[s.project] is not None and (not args.suite or s.name in args.suite)]
    if not wanted:
        parser.error("name the source tree of a project, e.g. --mmengine FOLDER")
    absent = [
        str(sources[s.project] / "tests") for s in wanted if not (sources[s.project] / "tests" / s.folder).is_dir()
    ]
    if absent:
        parser.error(f"no tests of the suites in {', '.join(sorted(set(absent)))}")
    args.logs.mkdir(parents=True, exist_ok=True)
    known, unlisted, broken, results = known_differences(), [], [], {}
    print("suite: without; with (passed / failed / skipped)")
    for suite in wanted:
        found = []
        for label, statement in (("without", suite.before), ("with", OVERRIDES)):
            log = args.logs / f"{suite.name.replace('/', '-')}-{label}.log"
            found.append(run(suite, sources[suite.project].resolve(), statement, log, args.timeout))
        base, ours = found
        print(f"{suite.name}: {counts(base)}; {counts(ours)}", flush=True)
        results[suite.name] = {"without": base, "with": ours}
        if not base or not ours:
            broken.append(suite.name)
        unlisted += compare(suite, base, ours, known)
    (args.logs / "outcomes.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    if broken:
        print(f"no report of pytest for {', '.join(broken)}: see {args.logs}")
        return 2
    print(f"{len(unlisted)} tests pass without the overrides only and are not in {DIFFERENCES.name}")
    return 1 if unlisted else 0


if __name__ == "__main__":
    sys.exit(main())
