"""The final numbers of a run: speed, accuracy, losses. For people and as JSON; :mod:`.case` has the launchers' format.

FPS is the value of the training's own clocks (``mmcv_overrides.timer``), which every train record carries: images per
second over the whole run and all ranks. A run whose iterations were all warm-up has none.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fcos_train.report import records as logs
from fcos_train.report.records import Record, number

METRIC = "bbox_mAP"
NONE = "n/a"
WARM_UP = "no epoch had more than 5 iterations, and the first 5 are warm-up"


@dataclass(frozen=True)
class Summary:
    """The numbers that a work dir has of its run; None or empty where it has none.

    Attributes:
        started: when the last session began, ISO 8601, UTC. sessions: starts and resumes that wrote a log.
        epoch, steps: how far the training is. batch_size: images per device and step.
        opt_level, loss_scale: of mixed precision, from the run's ``config.py``.
        fps: images per second of all ranks over the whole run, without warm-up, evaluation and checkpoint writing.
        no_fps: why there is none, where the log tells.
        losses: total loss of each logged iteration, as text with four decimal places. last_losses: last ones, by name.
        accuracy: largest bbox_mAP of all evaluations during training. accuracy_epoch: its epoch.
        validation: numbers of the last evaluation during training. evaluation: of the last ``fcos-train eval``.
    """

    work_dir: str
    started: str | None = None
    sessions: int = 0
    epoch: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    fps: float | None = None
    no_fps: str | None = None
    opt_level: str | None = None
    loss_scale: str | None = None
    losses: list[str] = field(default_factory=list)
    last_losses: dict[str, float] = field(default_factory=dict)
    accuracy: float | None = None
    accuracy_epoch: int | None = None
    validation: dict[str, float] = field(default_factory=dict)
    evaluation: dict[str, float] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether neither a training nor an evaluation has logged anything."""
        return not (self.losses or self.validation or self.evaluation)


def summarise(work_dir: str | Path, last_session: bool = False) -> Summary:
    """Read a work dir.

    Args:
        work_dir: folder of a training or of an evaluation; one that is absent gives an empty summary.
        last_session: leave out what was logged before the last resume.
    """
    folder = Path(work_dir)
    sessions = logs.sessions(folder)
    records = logs.joined(sessions[-1:] if last_session else sessions)
    train = [record for record in records if record.get("mode") == "train"]
    val = [record for record in records if record.get("mode") == "val"]
    test = [record for record in _evaluations(folder) + records if record.get("mode") == "test"]
    last = train[-1] if train else {}
    fps = next((r["fps"] for r in reversed(train) if (number(r.get("fps")) or 0) > 0), None)
    settings = logs.settings(folder)
    best = max((r for r in val if number(r.get(METRIC)) is not None), key=lambda r: r[METRIC], default={})
    return Summary(
        work_dir=str(work_dir),
        started=logs.run_record(folder).get("started"),
        sessions=len(sessions),
        epoch=last.get("epoch"),
        steps=last.get("step"),
        batch_size=settings.batch_size,
        fps=fps,
        no_fps=WARM_UP if fps is None and last.get("fps") == 0 else None,
        opt_level=settings.opt_level,
        loss_scale=settings.loss_scale,
        losses=[_four_digits(record["loss"]) for record in train if "loss" in record],
        last_losses={name: value for name, value in last.items() if "loss" in name},
        accuracy=best.get(METRIC),
        accuracy_epoch=best.get("epoch"),
        validation=_metrics(val[-1]) if val else {},
        evaluation=_metrics(test[-1]) if test else {},
    )


def _evaluations(folder: Path) -> list[Record]:
    """Records of the evaluations beside a training's checkpoints (``eval/``, ``eval-2/``, ...), oldest first."""
    paths = sorted(folder.glob(f"eval*/{logs.LOGS}"), key=lambda path: path.name)
    return [record for path in paths for record in logs.read_log(path)]


def _metrics(record: Record) -> dict[str, float]:
    """The numbers of an evaluation without the keys that place it."""
    return {name: value for name, value in record.items() if name not in ("mode", "epoch", "iter", "step")}


def _four_digits(value: object) -> str:
    """As the text log prints it; a value that is not finite is text already ("nan")."""
    return f"{value:.4f}" if isinstance(value, (int, float)) else str(value)


def as_text(summary: Summary) -> str:
    """A few aligned lines for people."""
    rows = [("work dir", summary.work_dir)]
    if summary.started:
        resumed = f", {summary.sessions} sessions" if summary.sessions > 1 else ""
        rows.append(("started", summary.started + resumed))
    if summary.losses:
        steps = "" if summary.steps is None else f", step {summary.steps}"
        batch = f", {summary.batch_size} images per device and step" if summary.batch_size else ""
        rows.append(("trained", f"to epoch {summary.epoch}{steps}{batch}"))
        why = f" ({summary.no_fps})" if summary.no_fps else ""
        rows.append(("images/s", NONE + why if summary.fps is None else f"{summary.fps:.2f}"))
        parts = [f"{name} {_four_digits(v)}" for name, v in summary.last_losses.items() if name != "loss"]
        rows.append(("loss", summary.losses[-1] + (f" ({', '.join(parts)})" if parts else "")))
    if summary.accuracy is not None:
        rows.append((f"best {METRIC}", f"{summary.accuracy:.4f} (epoch {summary.accuracy_epoch})"))
    for title, metrics in (("validation", summary.validation), ("evaluation", summary.evaluation)):
        if metrics:
            rows.append((title, ", ".join(f"{name} {_four_digits(value)}" for name, value in metrics.items())))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def as_json(summary: Summary) -> str:
    """All fields of :class:`Summary` as one JSON object."""
    return json.dumps(asdict(summary), indent=1)
