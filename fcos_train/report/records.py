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


def config_values(work_dir: Path) -> Record:
    """The variables of the ``config.py`` of a training as plain values; the file is read and not executed.

    Empty where there is none or it is damaged; a value that is no constant is its text.
    """
    try:
        tree = ast.parse((Path(work_dir) / "config.py").read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return {}
    return {
        target.id: _value(statement.value)
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }


def _value(node: ast.expr) -> Any:
    """``dict(key=...)``, ``{"key": ...}``, lists, tuples and constants as values; anything else as its text."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        return {keyword.arg: _value(keyword.value) for keyword in node.keywords if keyword.arg}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values)
        return {key.value: _value(item) for key, item in pairs if isinstance(key, ast.Constant)}
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return ast.unparse(node)


def settings(work_dir: Path) -> Settings:
    """The settings of a training from its ``config.py``, which is read and not executed."""
    values = config_values(work_dir)
    batch = within(values, "train_dataloader.batch_size")
    level = within(values, "optim_wrapper.opt_level")
    scale = within(values, "optim_wrapper.loss_scale")
    return Settings(
        batch if isinstance(batch, int) else None,
        level if isinstance(level, str) else None,
        str(scale) if isinstance(scale, (int, float, str)) else None,
    )


def within(values: Any, path: str) -> Any:
    """The value at ``a.b.c`` of nested dicts; None where there is none."""
    for key in path.split("."):
        values = values.get(key) if isinstance(values, dict) else None
    return values


def flat(value: Any, path: str = "") -> Record:
    """Nested dicts and lists of dicts as ``a.b[0].c`` -> value; other lists stay whole."""
    if isinstance(value, dict) and value:
        parts = {f"{path}.{key}" if path else str(key): item for key, item in value.items()}
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        parts = {f"{path}[{index}]": item for index, item in enumerate(value)}
    else:
        return {path: value}
    return {name: found for key, item in parts.items() for name, found in flat(item, key).items()}
