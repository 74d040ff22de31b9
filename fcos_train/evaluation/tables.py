"""Output of an evaluation: JSON files and a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcv_overrides.files import write_json


def write_metrics(path: str | Path, metrics: dict) -> Path:
    """Write metric values as JSON, atomically; a value that is not finite becomes null.

    Raises:
        UserError: the file cannot be written.
    """
    return write_json(path, _finite(metrics))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if hasattr(value, "item"):  # NumPy and torch scalars
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def class_table(rows: Sequence[dict], columns: int = 0) -> str:
    """One line per class, or several classes per line if there are many.

    Args:
        rows: dicts with ``name``, ``boxes``, ``AP``, ``AP_50``, ``AP_75``; nan prints as ``-``.
        columns: blocks side by side; 0: as many as needed for 30 lines, at most three.
    """
    columns = columns or min(3, math.ceil(len(rows) / 30) or 1)
    width = max([len("class"), *(min(len(row["name"]), 24) for row in rows)])
    head = f"{'class':<{width}} {'boxes':>6} {'AP':>6} {'AP50':>6} {'AP75':>6}"
    cells = [
        f"{row['name'][:24]:<{width}} {row['boxes']:>6} "
        + " ".join(f"{_three(row[key]):>6}" for key in ("AP", "AP_50", "AP_75"))
        for row in rows
    ]
    height = math.ceil(len(cells) / columns)
    lines = [" | ".join([head] * columns)]
    lines += [" | ".join(cells[start::height]) for start in range(height)]
    return "\n".join(lines)


def _three(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"
