"""Train, validate, resume, draw and export one config of every family of mmdet, and write docs/models.md.

    python scripts/try_models.py                         # families without a result yet; goes on after an interruption
    python scripts/try_models.py --only htc ssd --again  # these, whether they have a result or not
    python scripts/try_models.py --only paa --extras     # with the packages installed that it needs
    python scripts/try_models.py --onnx                  # the export of families that work, where it was not tried yet
    python scripts/try_models.py --table                 # only write the table from the results

Every family runs in a process of its own (scripts/model_trial.py) with limits of time and memory, on four generated
images of 96 px with boxes and masks. Results are lines of JSON; of several for a family the last counts.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import date
from pathlib import Path
from typing import Any

from model_families import LEFT_OUT, UNTRIED_EXTRA, families

ROOT = Path(__file__).resolve().parents[1]
WORKS, EXTRA, UNSUPPORTED = "works", "needs an extra", "not supported"
WITH_EXTRA = "works with the extra"
UNFINISHED = "not finished"  # within the limit of time: says nothing of the model
INSTALL = re.compile(r"pip install (?:(?:&& pip install )?[\w.'<>=*\[\]+:/-]+(?: |$))+")
STEPS = ("train", "resume", "demo")


def draw_data(folder: Path) -> Path:
    """Four training and two validation images of 96 px, every box with a polygon around it."""
    from fcos_train.data.shapes import make_shapes

    make_shapes(folder, train=4, val=2, size=(96, 96))
    for path in (folder / "annotations").glob("*.json"):
        data = json.loads(path.read_text())
        for annotation in data["annotations"]:
            x, y, w, h = annotation["bbox"]
            annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        path.write_text(json.dumps(data))
    return folder


def run_one(
    family: str, config: str, data: Path, folder: Path, seconds: int, gigabytes: int, steps: Sequence[str] = STEPS
) -> dict[str, Any]:
    """Try a config in a process of its own, which is ended with its children when the time is over.

    Args:
        steps: ``("export",)`` for that alone, from random weights.
    """
    shutil.rmtree(folder, ignore_errors=True)  # of a trial that was interrupted
    folder.mkdir(parents=True)
    words = [sys.executable, str(ROOT / "scripts" / "model_trial.py"), config, str(data), str(folder)]
    words += ["export"] if tuple(steps) == ("export",) else []

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (gigabytes << 30, gigabytes << 30))

    with (folder / "trial.log").open("wb") as log:
        process = subprocess.Popen(
            words, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=limit
        )
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    shutil.rmtree(folder / "run", ignore_errors=True)  # checkpoints of some hundred MB
    return {"family": family, "config": config, **_outcome(folder, process.returncode, seconds, steps)}


def _outcome(folder: Path, code: int, seconds: int, planned: Sequence[str]) -> dict[str, Any]:
    """What the process left; a step that was under way when it ended is named."""
    path = folder / "trial.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    if "steps" in found:
        return found
    steps = {**found}
    under_way = next((name for name in (*planned, "export") if name not in steps), "export")
    why = f"not done after {seconds} s" if code == -signal.SIGKILL else f"the process ended with status {code}"
    steps[under_way] = {"status": "ended", "message": why, "seconds": seconds}
    return {"steps": steps, "seconds": seconds, "peak_mb": 0}


def verdict(result: dict[str, Any]) -> tuple[str, str]:
    """``works``, ``needs an extra``, ``not finished`` or ``not supported``, and the remark for the table."""
    steps = result["steps"]
    failed = [name for name in STEPS if steps.get(name, {}).get("status") != "ok"]
    if not failed:
        return WORKS, ""
    step = steps.get(failed[0], {"status": "ended", "message": "not run"})
    if step["status"] == "ended" and step["message"].startswith("not done after"):
        return UNFINISHED, f"{failed[0]}: {step['message']}"
    install = INSTALL.findall(step["message"])
    if step["status"] == "refused" and install:
        return EXTRA, ", ".join(f"`{line.strip()}`" for line in dict.fromkeys(install))
    clear = step["message"] if step["status"] == "refused" else f"{step['status']}: {step['message']}"
    return UNSUPPORTED, f"{failed[0]}: {clear}"


def exported(result: dict[str, Any]) -> str:
    """The column of the export: ``verified``, ``refused`` or empty where it was not reached."""
    step = result["steps"].get("export")
    if step is None:
        return ""
    return {"ok": "verified", "refused": "refused", "ended": "not finished"}.get(step["status"], step["status"])


def read_results(path: Path, extras: bool = False) -> dict[str, dict[str, Any]]:
    """The last result of every family; an export that was tried alone is added to it.

    Args:
        extras: of those that were tried with the optional packages installed, instead of those without.
    """
    lines = path.read_text().splitlines() if path.is_file() else []
    found: dict[str, dict[str, Any]] = {}
    for result in map(json.loads, lines):
        if result.get("extras", False) != extras:
            continue
        family, steps = result["family"], result["steps"]
        if set(steps) == {"export"} and family in found:
            found[family]["steps"] |= steps
        else:
            found[family] = result
    return found


def verdicts_of(results: dict[str, dict], with_extras: dict[str, dict]) -> dict[str, tuple[str, str]]:
    """The verdict on every family; one that needs an extra is judged with it where that was tried."""
    found = {}
    for family, result in results.items():
        kind, remark = verdict(result)
        if kind == EXTRA and family in UNTRIED_EXTRA:
            remark += f"; {UNTRIED_EXTRA[family]}"
        elif kind == EXTRA and family in with_extras:
            again, why = verdict(with_extras[family])
            kind = WITH_EXTRA if again == WORKS else kind
            remark += "" if again == WORKS else f"; with it: {why}" if again == EXTRA else f"; with it: {again} ({why})"
        found[family] = (kind, remark)
    return found


def table(
    results: dict[str, dict[str, Any]],
    with_extras: dict[str, dict[str, Any]],
    untried: Sequence[str],
    day: str,
    versions: str,
) -> str:
    """docs/models.md.

    Args:
        untried: families without a result, which are listed below the table.
    """
    verdicts = verdicts_of(results, with_extras)
    counts = Counter(kind for kind, _ in verdicts.values())
    rows = [
        f"| {family} | `{results[family]['config'].split('/')[-1]}` | {kind} | {exported(results[family])} "
        f"| {_cell(remark)} |"
        for family, (kind, remark) in sorted(verdicts.items())
    ]
    onnx = Counter(exported(results[family]) for family in verdicts)
    left = [f"| {family} | {why} |" for family, why in sorted(LEFT_OUT.items())]
    head = f"""# Models of mmdet

One config of every family (folder) of mmdet's `configs/`, tried by `scripts/try_models.py` on {day} with
{versions}, on a CPU: images of 96 px, batch 2, fp32, random weights. The code is that of the full model; what costs
time only is made smaller: plain ResNets have a quarter of their channels, at most 64 RoIs are sampled, a DETR has
at most 100 queries. **works** means that it trained two iterations, was validated, wrote a checkpoint, resumed from
it for one more, and drew the detections of that checkpoint. **works with the extra** means the same, after the line
in the remark had installed the packages that the command had named; a language model was a BERT of two layers with
random weights, in a folder. **needs an extra** means that the command named a missing package and the line that
installs it before anything was built. The column *ONNX* says that `fcos-train export --allow-untrained` wrote and
verified the model, from random weights, or that it was refused in one line; it is empty where the export was not
tried. See [deployment](deployment.md).

{len(verdicts)} families: {counts[WORKS]} work, {counts[WITH_EXTRA]} work with an extra, \
{counts[EXTRA]} need an extra, {counts[UNSUPPORTED]} are not supported,
{counts[UNFINISHED]} were not finished within the limit of time. ONNX: {onnx["verified"]} verified, \
{onnx["refused"]} refused, {onnx["not finished"]} not finished within the limit of time, {onnx[""]} not tried.

| family | config | result | ONNX | remark |
|---|---|---|---|---|
"""
    tail = "\n\nLeft out:\n\n| folder | why |\n|---|---|\n"
    waiting = f"\n\nNot tried in this run: {', '.join(untried)}." if untried else ""
    return head + "\n".join(rows) + waiting + tail + "\n".join(left) + "\n"


def _cell(text: str) -> str:
    """A remark as a cell of a table: one line, without the columns' separator."""
    return " ".join(text.replace("|", "/").split())[:300]


def _versions() -> str:
    from importlib.metadata import version

    import mmdet
    import torch

    return f"torch {torch.__version__}, mmdet {mmdet.__version__}, numpy {version('numpy')}"


def run_all(wanted: dict[str, str], options: argparse.Namespace) -> None:
    """Try the families and append a line per result, ``--jobs`` at a time."""
    folder = Path(options.folder)
    data = draw_data(folder / "data")

    def one(item: tuple[str, str]) -> dict[str, Any]:
        family, config = item
        name, steps = f"{family}/{config}", ("export",) if options.onnx else STEPS
        result = run_one(family, name, data, folder / family, options.seconds, options.gigabytes, steps)
        return result | {"extras": options.extras}

    with ThreadPoolExecutor(options.jobs) as pool, (folder / "results.jsonl").open("a") as file:
        for future in as_completed([pool.submit(one, item) for item in wanted.items()]):
            result = future.result()
            file.write(json.dumps(result) + "\n")
            file.flush()
            said = exported(result) if options.onnx else " ".join(verdict(result))
            print(f"{result['family']}: {said} ({result['seconds']} s)", flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """Parse the command line, run what lacks a result, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="FAMILY", help="these families")
    parser.add_argument("--again", action="store_true", help="also families that have a result")
    parser.add_argument("--extras", action="store_true", help="the optional packages are installed; noted as such")
    parser.add_argument("--onnx", action="store_true", help="only the export, of families that work")
    parser.add_argument("--table", action="store_true", help="run nothing, write the table")
    parser.add_argument("--folder", default="work_dirs/try_models", help="for data, logs and results (%(default)s)")
    parser.add_argument("--output", default=str(ROOT / "docs" / "models.md"), help="the table (%(default)s)")
    parser.add_argument("--seconds", type=int, default=240, help="limit of time per family (%(default)s)")
    parser.add_argument("--gigabytes", type=int, default=12, help="limit of memory per family (%(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="families at a time (%(default)s)")
    options = parser.parse_args(words)
    import mmdet

    known = families(Path(mmdet.__file__).parent / ".mim" / "configs")
    unknown = [family for family in options.only or () if family not in known]
    if unknown:
        parser.error(f"no family {', '.join(unknown)}; families: {', '.join(known)}")
    results = Path(options.folder) / "results.jsonl"
    wanted = {f: c for f, c in known.items() if f in (options.only or known)}
    done = read_results(results, options.extras)
    if options.onnx:
        wanted = {f: c for f, c in wanted.items() if f in done and verdict(done[f])[0] == WORKS}
        done = {f: result for f, result in done.items() if "export" in result["steps"]}
    wanted = {f: c for f, c in wanted.items() if options.again or f not in done}
    if not options.table:
        Path(options.folder).mkdir(parents=True, exist_ok=True)
        run_all(wanted, options)
    found, extra = (
        {family: result for family, result in read_results(results, extras).items() if family in known}
        for extras in (False, True)
    )
    untried = [family for family in known if family not in found]
    Path(options.output).write_text(table(found, extra, untried, date.today().isoformat(), _versions()))
    print(f"{len(found)} of {len(known)} families are in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
