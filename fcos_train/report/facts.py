"""What the report knows of a run besides its log: ``report/facts.json``, ``data/check.json`` and ``config.py``.

``report/facts.json`` is written at the start of a run by ``fcos_train.engine.report_hook``. Work dirs without it, of
older versions or copied in part, lack what only it has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fcos_train.report.evaluation import Unavailable, read_json
from fcos_train.report.records import config_values, flat, within

FOLDER = "report"
FACTS = "facts.json"
BATCHES = "train_batch_*.jpg"
MISSING = object()


@dataclass(frozen=True)
class Facts:
    """What is known of a run; empty where nothing is.

    Attributes:
        command: of the run. environment: names and values. config: name of the config file.
        differences: (key, value in the base configs, value in the config file with ``--cfg-options``).
        base: names of the base configs.
        given: (flag, value) of the command line.
        annotations, images: split -> annotation file, and folder of its images.
        detections: path prefix of the files of the evaluation.
        check: content of ``data/check.json``.
    """

    command: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    config: str = ""
    base: str = ""
    differences: list[list[str]] = field(default_factory=list)
    given: list[list[str]] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    detections: str = ""
    check: dict[str, Any] = field(default_factory=dict)


def read_facts(work_dir: Path) -> Facts:
    """The facts of a work dir, as far as they are there."""
    values = _dict(work_dir / FOLDER / FACTS)
    known = {key: value for key, value in values.items() if key in Facts.__dataclass_fields__}
    config = config_values(work_dir)
    for key, path in (("annotations", "ann_file"), ("images", "data_prefix.img")):
        found = {split: within(config, f"{split}_dataloader.dataset.{path}") for split in ("train", "val")}
        known.setdefault(key, {split: value for split, value in found.items() if isinstance(value, str)})
    return Facts(**{**known, "check": _dict(work_dir / "data" / "check.json")})


def _dict(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path, "facts")
    except Unavailable:
        return {}
    return found if isinstance(found, dict) else {}


def prefix(work_dir: Path, facts: Facts) -> Path:
    """Path prefix of the evaluation's files, also where the work dir was moved."""
    named = Path(facts.detections or "detections")
    return named if named.is_absolute() and named.parent.is_dir() else work_dir / named.name


def shown(value: Any, limit: int = 120) -> str:
    """A value of a config in one line; one that is absent is ``-``."""
    if value is MISSING:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[: limit - 1]}\u2026"


def differences(values: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The keys of nested configs whose values are not the same in all: (key, value in each), as texts.

    Args:
        values: configs as plain values.
    """
    parts = [flat(json.loads(json.dumps(value, default=str))) for value in values]
    keys = sorted(set().union(*parts))
    rows = [(key, [part.get(key, MISSING) for part in parts]) for key in keys]
    return [[key, *map(shown, row)] for key, row in rows if any(value != row[0] for value in row)]
