"""The files of a work dir, read without importing what wrote them: JSON logs, ``run.json``, ``config.py``."""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Record = dict[str, Any]

LOGS = "*.log.json"  # one per session: <timestamp>.log.json, so their names sort by time


def sessions(work_dir: Path) -> list[list[Record]]:
    """The log records of each session (start or resume) of a training, oldest first."""
    return [read_log(path) for path in sorted(Path(work_dir).glob(LOGS))]


def read_log(path: Path) -> list[Record]:
    """The records of a JSON log; lines that are not JSON objects (the last one, cut off by a crash) are left out."""
    records = []
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict):
                records.append(record)
    return records


def joined(sessions: list[list[Record]]) -> list[Record]:
    """The records that count: a session replaces what earlier ones logged from its own first step on.

    A training that is resumed from step 600 repeats steps that were logged after its checkpoint was written.
    """
    kept: list[Record] = []
    for session in sessions:
        first = next((record["step"] for record in session if "step" in record), None)
        if first is not None:
            end = next((i for i, record in enumerate(kept) if record.get("step", -1) >= first), len(kept))
            del kept[end:]
        kept += session
    return kept


def number(value: object) -> float | None:
    """``value`` if it is a finite number; the log has other ones as text ("nan"), and users may edit it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or abs(value) == float("inf"):
        return None
    return value


def run_record(work_dir: Path) -> Record:
    """Content of ``run.json`` (see ``mmcv_overrides.run_folder``); empty where there is none or it is damaged."""
    try:
        found = json.loads((Path(work_dir) / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True)
class Settings:
    """What the ``config.py`` of a training says; None where it does not.

    Attributes:
        batch_size: images per device and step. opt_level: of mixed precision. loss_scale: a number or ``dynamic``.
    """

    batch_size: int | None = None
    opt_level: str | None = None
    loss_scale: str | None = None


def settings(work_dir: Path) -> Settings:
    """The settings of a training from its ``config.py``, which is read and not executed."""
    try:
        tree = ast.parse((Path(work_dir) / "config.py").read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return Settings()
    batch = _constant(tree, "train_dataloader", "batch_size")
    level = _constant(tree, "optim_wrapper", "opt_level")
    scale = _constant(tree, "optim_wrapper", "loss_scale")
    return Settings(
        batch if isinstance(batch, int) else None,
        level if isinstance(level, str) else None,
        str(scale) if isinstance(scale, (int, float, str)) else None,
    )


def _constant(tree: ast.Module, variable: str, key: str) -> Any:
    """The constant that ``variable = dict(key=...)`` gives; None if there is none."""
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and any(ast.unparse(t) == variable for t in statement.targets):
            value = _entry(statement.value, key)
            if isinstance(value, ast.Constant):
                return value.value
    return None


def _entry(node: ast.expr, name: str) -> ast.expr | None:
    """The value of a key in ``dict(key=...)`` or ``{"key": ...}``."""
    if isinstance(node, ast.Call):
        return next((keyword.value for keyword in node.keywords if keyword.arg == name), None)
    if isinstance(node, ast.Dict):
        keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
        return dict(zip(keys, node.values)).get(name)
    return None
