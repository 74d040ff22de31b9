"""Several runs side by side on one page: numbers, curves, AP of each class, and where their configs differ."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcos_train.report import figures
from fcos_train.report import records as logs
from fcos_train.report.curves import Curves, curves
from fcos_train.report.evaluation import Unavailable, read_json
from fcos_train.report.facts import differences, prefix, read_facts
from fcos_train.report.page import render, three, write_text
from fcos_train.report.summary import Summary, summarise

# Keys of a config that differ between any two runs and say nothing: names, places, and copies of what loaders have.
NOTHING = ("work_dir", "experiment_name", "visualizer.save_dir", "train_pipeline", "test_pipeline", "_base_")
NUMBERS = (("AP", "bbox_mAP"), ("AP50", "bbox_mAP_50"), ("AP75", "bbox_mAP_75"))
SIZES = (("AP small", "bbox_mAP_s"), ("AP medium", "bbox_mAP_m"), ("AP large", "bbox_mAP_l"))


@dataclass(frozen=True)
class Run:
    """What is compared of one work dir. metrics: of its last evaluation, empty if there is none."""

    name: str
    summary: Summary
    curves: Curves
    metrics: dict[str, Any]
    config: dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A row of a table. best: indices of the runs with the largest value."""

    name: str
    cells: list[str]
    best: frozenset[int] = frozenset()


def compare(work_dirs: Sequence[str | Path], path: Path) -> Path:
    """Write the page that compares runs.

    Args:
        path: of the page; the figures are written beside it as PNG.

    Returns:
        ``path``.

    Raises:
        Unavailable: a folder has no log.
        OSError: the page cannot be written.
    """
    runs = [_run(Path(folder), name) for folder, name in zip(work_dirs, names_of(work_dirs), strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_text(
        path,
        render(
            "compare.html.j2",
            runs=runs,
            figures=_figures(runs, path.parent, path.stem),
            numbers=_numbers(runs),
            classes=_classes(runs),
            differences=_differences(runs),
            created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        ),
    )


def names_of(work_dirs: Sequence[str | Path]) -> list[str]:
    """The shortest ends of the paths, of one length, that tell the runs apart; numbered if the paths are the same."""
    paths = [Path(folder).resolve() for folder in work_dirs]
    for length in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{path.name} ({number})" for number, path in enumerate(paths, 1)]


def _run(folder: Path, name: str) -> Run:
    summary = summarise(folder)
    if summary.is_empty:
        raise Unavailable(f"{folder}: no *.log.json with results of a training or an evaluation")
    records = logs.joined(logs.sessions(folder))
    place = prefix(folder, read_facts(folder))
    try:
        metrics = read_json(place.with_name(f"{place.name}.metrics.json"), "numbers of an evaluation")
    except Unavailable:
        metrics = {}
    return Run(name, summary, curves(records), metrics, logs.config_values(folder))


def _figures(runs: Sequence[Run], folder: Path, stem: str) -> list[figures.Picture]:
    """The curves of all runs that have them, one figure for each kind."""
    drawn = []
    for name, title, values in (
        ("loss", "Loss", [run.curves.losses.get("loss") for run in runs]),
        ("map", "Validation mAP", [_map(run) for run in runs]),
        ("lr", "Learning rate", [next(iter(run.curves.lr.values()), None) for run in runs]),
    ):
        found = {run.name: value for run, value in zip(runs, values, strict=True) if value}
        if found:
            drawn.append(figures.lines(f"{stem}_{name}", title, folder, found, "step", "o" if name == "map" else ""))
    return drawn


def _map(run: Run) -> Any:
    return next((value for name, value in run.curves.accuracy.items() if name.endswith("mAP")), None)


def _numbers(runs: Sequence[Run]) -> list[Row]:
    rows = [
        _best("best mAP in training", [run.summary.accuracy for run in runs]),
        Row("of epoch", [_text(run.summary.accuracy_epoch) for run in runs]),
    ]
    rows += [_best(name, [_metric(run, key) for run in runs]) for name, key in (*NUMBERS, *SIZES)]
    rows.append(_best("images/s", [run.summary.fps for run in runs], digits=1))
    for name, key in (
        ("epochs", "epoch"),
        ("steps", "steps"),
        ("images per device and step", "batch_size"),
        ("mixed precision", "opt_level"),
        ("started", "started"),
    ):
        rows.append(Row(name, [_text(getattr(run.summary, key)) for run in runs]))
    return rows


def _text(value: object) -> str:
    return "–" if value is None else str(value)


def _metric(run: Run, key: str) -> float | None:
    value = logs.number(run.metrics.get("metrics", {}).get(key))
    return value if value is not None and value >= 0 else None


def _best(name: str, values: Sequence[float | None], digits: int = 3) -> Row:
    """A row in which the largest value is marked, if runs differ."""
    known = [value for value in values if value is not None]
    most = max(known, default=None)
    marked = frozenset(i for i, value in enumerate(values) if value == most) if len(set(known)) > 1 else frozenset()
    return Row(name, [three(v) if v is None or digits == 3 else f"{v:.{digits}f}" for v in values], marked)


def _classes(runs: Sequence[Run]) -> list[Row]:
    """AP of each class in the last evaluation of each run."""
    tables = [run.metrics.get("per_class", {}) for run in runs]
    names = dict.fromkeys(name for table in tables for name in table)
    return [_best(name, [logs.number(table.get(name, {}).get("AP")) for table in tables]) for name in names]


def _differences(runs: Sequence[Run]) -> list[list[str]]:
    """Keys whose values differ between the configs of the runs."""
    if any(not run.config for run in runs):
        return []
    return [row for row in differences([run.config for run in runs]) if not row[0].startswith(NOTHING)]
