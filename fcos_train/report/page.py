"""The report of one work dir: ``report/index.html``, one file without references to others, and its pictures as PNG."""

from __future__ import annotations

import datetime
import json
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined

from fcos_train.report import figures, pictures
from fcos_train.report import records as logs
from fcos_train.report.accuracy import Accuracy, confusions, measure
from fcos_train.report.artefacts import artefacts
from fcos_train.report.curves import Curves, curves
from fcos_train.report.evaluation import Evaluation, Unavailable, read_evaluation, read_json
from fcos_train.report.facts import BATCHES, FOLDER, Facts, prefix, read_facts
from fcos_train.report.labels import read_labels
from fcos_train.report.summary import NONE, Summary, summarise

T = TypeVar("T")
SIZES = (("small", "s", "< 32² px"), ("medium", "m", "32² to 96² px"), ("large", "l", "> 96² px"))
LATER = "The worst images are drawn when the training ends. To see them now: fcos-train report "


@dataclass
class Page:
    """What the template shows.

    Attributes:
        notes: section -> why it is empty. last: record of the last training line.
    """

    title: str
    summary: Summary
    facts: Facts
    curves: list[figures.Picture] = field(default_factory=list)
    evaluation: Evaluation | None = None
    accuracy: Accuracy | None = None
    accuracy_figures: list[figures.Picture] = field(default_factory=list)
    worst: list[pictures.Worst] = field(default_factory=list)
    batches: list[Path] = field(default_factory=list)
    labels: list[figures.Picture] = field(default_factory=list)
    speed: list[figures.Picture] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    last: logs.Record = field(default_factory=dict)

    def attempt(self, section: str, make: Callable[[], T], otherwise: T) -> T:
        """The result, or ``otherwise`` and a note of the section where there is no input for it."""
        try:
            return make()
        except Unavailable as reason:
            self.notes[section] = str(reason)
            return otherwise


def build(work_dir: str | Path, with_images: bool = True) -> Path:
    """Write the report of a training or an evaluation.

    Args:
        with_images: draw the worst images too, which takes longer than all else.

    Returns:
        the page, ``<work_dir>/report/index.html``.

    Raises:
        Unavailable: the folder has neither a log nor an evaluation.
        OSError: the report cannot be written.
    """
    work_dir = Path(work_dir)
    records = logs.joined(logs.sessions(work_dir))
    facts, summary = read_facts(work_dir), summarise(work_dir)
    if summary.is_empty:
        raise Unavailable(f"{work_dir}: no *.log.json with results of a training or an evaluation")
    folder = work_dir / FOLDER
    folder.mkdir(exist_ok=True)
    page = Page(work_dir.resolve().name, summary, facts)
    page.last = next((record for record in reversed(records) if record.get("mode") == "train"), {})
    _draw_curves(page, curves(records), folder)
    page.evaluation = page.attempt("evaluation", lambda: read_evaluation(prefix(work_dir, facts)), None)
    if page.evaluation is not None:
        _draw_accuracy(page, page.evaluation, folder, with_images, work_dir)
    page.batches = sorted(folder.glob(BATCHES))
    page.labels = page.attempt("labels", lambda: _draw_labels(facts, work_dir, folder), [])
    return write_text(folder / "index.html", render("report.html.j2", **_context(page, work_dir)))


def _draw_curves(page: Page, found: Curves, folder: Path) -> None:
    if found.losses:
        page.curves.append(figures.losses(folder, found.losses, found.val_losses, "step"))
    if found.lr:
        page.curves.append(figures.lines("lr", "Learning rate", folder, found.lr, "step"))
    if found.accuracy and found.losses:
        page.curves.append(figures.lines("map", "Validation mAP", folder, found.accuracy, "step", marker="o"))
    if found.speed:
        page.speed.append(figures.lines("speed", "Images per second", folder, found.speed, "step"))


def _draw_accuracy(page: Page, evaluation: Evaluation, folder: Path, with_images: bool, work_dir: Path) -> None:
    accuracy = page.accuracy = measure(evaluation)
    page.accuracy_figures = [
        figures.precision_recall(folder, accuracy),
        figures.f1_confidence(folder, accuracy),
        figures.confusion(folder, accuracy, evaluation.classes),
    ]
    if not with_images:
        page.notes["worst"] = f"{LATER}{work_dir}"
        return
    page.worst = page.attempt("worst", lambda: _draw_worst(page, evaluation, accuracy, folder), [])
    if not page.worst and "worst" not in page.notes:
        page.notes["worst"] = "No image has a missed or an invented object."


def _draw_worst(page: Page, evaluation: Evaluation, accuracy: Accuracy, folder: Path) -> list[pictures.Worst]:
    images = page.facts.images.get("val")
    if images is None:
        raise Unavailable("The folder of the validation images is not known.")
    return pictures.worst(evaluation, accuracy, Path(images), folder)


def _draw_labels(facts: Facts, work_dir: Path, folder: Path) -> list[figures.Picture]:
    """The label statistics; drawn once, because annotations do not change within a run."""
    files = {}
    for split, named in facts.annotations.items():
        copy = work_dir / "data" / Path(named).name
        files[split] = Path(named) if Path(named).is_file() or not copy.is_file() else copy
    if not files:
        raise Unavailable("The annotation files of the run are not known.")
    sources = {split: [str(file), file.stat().st_mtime if file.is_file() else None] for split, file in files.items()}
    kept = folder / "labels.json"
    with suppress(Unavailable, KeyError, TypeError):
        known = read_json(kept, "label statistics")
        if known["sources"] == sources:
            return [figures.Picture(**picture) for picture in known["figures"]]
    drawn = figures.label_statistics(folder, {split: read_labels(file) for split, file in files.items()})
    write_text(kept, json.dumps({"sources": sources, "figures": [asdict(one) for one in drawn]}))
    return drawn


def _context(page: Page, work_dir: Path) -> dict[str, Any]:
    """The variables of the template."""
    metrics = page.evaluation.metrics if page.evaluation else {}
    accuracy, summary = page.accuracy, page.summary
    rows = []
    for curve in accuracy.curves if accuracy else ():
        scores, best = metrics["per_class"][curve.name], curve.best
        at_best: list[float | None] = [None] * 4
        if best is not None:
            at_best = [float(v[best]) for v in (curve.f1, curve.threshold, curve.precision, curve.recall)]
        rows.append({"name": curve.name, "scores": scores, "best": at_best})
    overlaps = confusions(accuracy.matrix, page.evaluation.classes) if accuracy and page.evaluation else []
    return {
        "page": page,
        "tiles": _tiles(summary, metrics),
        "sizes": [
            (name, note, *(_of(metrics, f"bbox_{kind}_{key}") for kind in ("mAP", "AR"))) for name, key, note in SIZES
        ],
        "overall_text": [(key.removeprefix("bbox_"), three(_of(metrics, key))) for key in metrics.get("metrics", {})],
        "speed": _speed(page),
        "rows": rows,
        "confused": overlaps,
        "artefacts": artefacts(work_dir),
        "differences": page.facts.differences,
        "created": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "parent": work_dir.parent if (work_dir.parent / FOLDER / "index.html").is_file() else None,
        "data_uri": pictures.data_uri,
    }


def _of(metrics: dict[str, Any], name: str) -> float | None:
    """A number of the evaluation; None where the annotations have no box of that size."""
    value = metrics.get("metrics", {}).get(name)
    return value if isinstance(value, (int, float)) and value >= 0 else None


def _tiles(summary: Summary, metrics: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The numbers at the top: name, value, note."""
    last = metrics.get("metrics", {})
    tiles = []
    if summary.accuracy is not None:
        tiles.append(("best mAP", f"{summary.accuracy:.3f}", f"epoch {summary.accuracy_epoch}"))
    for name, key in (("mAP", "bbox_mAP"), ("mAP at IoU 0.5", "bbox_mAP_50")):
        if isinstance(last.get(key), float):
            tiles.append((name, f"{last[key]:.3f}", f"last evaluation, {metrics.get('images', '?')} images"))
    if summary.losses:
        tiles.append(("loss", summary.losses[-1], f"step {summary.steps}, epoch {summary.epoch}"))
    if summary.fps is not None:
        tiles.append(("images/s", f"{summary.fps:.1f}", "all ranks, without evaluation"))
    elif summary.no_fps:
        tiles.append(("images/s", NONE, summary.no_fps))
    return tiles


def _speed(page: Page) -> list[tuple[str, str]]:
    """Where the time of the training went."""
    last, summary = page.last, page.summary
    rows = [("images/s over the whole run", NONE if summary.fps is None else f"{summary.fps:.2f}")]
    for name, key, unit in (
        ("time of a step", "time", "s"),
        ("of which waiting for data", "data_time", "s"),
        ("memory of the device", "memory", "MB"),
    ):
        value = logs.number(last.get(key))
        if value is not None:
            rows.append((name, f"{value:.3g} {unit}" if unit == "s" else f"{value:.0f} {unit}"))
    if summary.batch_size:
        rows.append(("images per device and step", str(summary.batch_size)))
    if summary.opt_level:
        rows.append(("mixed precision", f"{summary.opt_level}, loss scale {summary.loss_scale}"))
    if page.evaluation is not None:
        rows.append(("computing the metrics", f"{page.evaluation.metrics['seconds']:.2f} s"))
    return rows


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("fcos_train.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["three"] = three
    return environment


def three(value: float | None) -> str:
    """Three decimal places; a value that is not there is a dash."""
    return "–" if value is None else f"{value:.3f}"


def render(template: str, **context: Any) -> str:
    """A page from a template of this package."""
    return _environment().get_template(template).render(**context)


def write_text(path: Path, text: str) -> Path:
    """Write a file so that a reader sees either the old or the whole new one.

    Raises:
        OSError: the folder cannot be written or the disk is full.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        scratch.write_text(text, encoding="utf-8")
        os.replace(scratch, path)
    except BaseException:
        with suppress(OSError):
            scratch.unlink()
        raise
    return path
