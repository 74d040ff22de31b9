"""Output of an evaluation: JSON files, and tables for the log and for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcv_overrides.files import write_json
from mmcv_overrides.printable import printable

if TYPE_CHECKING:
    from rich.table import Table

MOST_ROWS = 20  # classes in the table of a terminal
PRECISIONS = ("AP", "AP_50", "AP_75", "AP_s", "AP_m", "AP_l")


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
    """For the log: one line per class, or several classes per line if there are many.

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


def evaluation_table(metrics: Mapping[str, Any], per_class: Mapping[str, Mapping[str, float]]) -> Table:
    """For a terminal: average precisions of all classes and of each, the recalls below them.

    Args:
        metrics: of an evaluation; those of a metric other than ``FastCocoMetric`` are listed by name.
        per_class: as in ``FastCocoMetric``; of more than :data:`MOST_ROWS` classes the weakest ones are shown.
    """
    from rich.markup import escape
    from rich.table import Table

    table = Table(caption_justify="left")
    if not per_class:
        table.add_column("metric")
        table.add_column("value", justify="right")
        for name, value in metrics.items():
            table.add_row(escape(printable(name)), _four(value))
        return table
    table.add_column("class")
    for name in ("boxes", *PRECISIONS):
        table.add_column(name.replace("_", ""), justify="right")
    of_all = [_four(metrics.get(f"bbox_m{name}")) for name in PRECISIONS]
    table.add_row("all", str(sum(row["boxes"] for row in per_class.values())), *of_all, style="bold", end_section=True)
    weakest = sorted(per_class, key=lambda name: (math.isnan(per_class[name]["AP"]), per_class[name]["AP"]))
    listed = list(per_class) if len(per_class) <= MOST_ROWS else weakest[:MOST_ROWS]
    for name in listed:
        row = per_class[name]
        table.add_row(escape(printable(name)), str(row["boxes"]), *(_three(row[key]) for key in PRECISIONS))
    recalls = [f"{k.removeprefix('bbox_').replace('_', '')} {_four(v)}" for k, v in metrics.items() if "_AR_" in k]
    fewer = [f"the {MOST_ROWS} weakest of {len(per_class)} classes; all are in the log"] * (listed != list(per_class))
    table.caption = "\n".join([*filter(None, ["  ".join(recalls)]), *fewer])
    return table


def _four(value: Any) -> str:
    """A number with four digits, as in the log; ``-`` for one that is undefined (-1) or absent."""
    if value is None or (isinstance(value, float) and (math.isnan(value) or value == -1)):
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else printable(value)
