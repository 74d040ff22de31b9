"""Exported models of a run: their descriptions, and how far they are from PyTorch's results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcos_train.report.evaluation import Unavailable, read_json

LISTED = "exports.json"  # in the folder of a checkpoint: paths of the descriptions of its exports
KEYS = ("classes", "input", "outputs", "mean", "std")  # every description has them


@dataclass(frozen=True)
class Artefact:
    """One exported model.

    Attributes:
        name: of its main file. kind: target, or ``onnx`` and the end of the graph. precision: of the target.
        shape: of its input. megabytes: size of the main file, or None if it is gone.
        differences: (output, largest difference from PyTorch) as verified by the export; empty if not recorded.
    """

    name: str
    kind: str
    precision: str
    shape: str
    megabytes: float | None
    differences: list[tuple[str, float]]


def artefacts(work_dir: Path) -> list[Artefact]:
    """The exports in the folder, two levels deep, and those of its checkpoints that were written elsewhere."""
    found = {}
    for path in _candidates(work_dir):
        try:
            content = read_json(path, "description")
        except Unavailable:
            continue
        if isinstance(content, dict) and all(key in content for key in KEYS):
            found[path.resolve()] = _artefact(path, content)
    return sorted(found.values(), key=lambda one: (one.kind, one.name))


def _candidates(work_dir: Path) -> Iterator[Path]:
    for pattern in ("*.json", "*/*.json"):
        yield from (path for path in sorted(work_dir.glob(pattern)) if path.stat().st_size < 1_000_000)
    try:
        listed = read_json(work_dir / LISTED, "list of exports")
    except Unavailable:
        return
    yield from (Path(path) for path in listed if isinstance(path, str) and Path(path).is_file())


def _artefact(path: Path, content: dict[str, Any]) -> Artefact:
    main = path.with_suffix("") if content.get("target") else path.with_suffix(".onnx")
    verified = content.get("verified")
    pairs = [(str(v.get("name")), float(v.get("largest"))) for v in verified] if isinstance(verified, list) else []
    sides = content["input"].get("shape") or []
    return Artefact(
        main.name,
        str(content.get("target") or f"onnx, end {content.get('end', '?')}"),
        str(content.get("precision") or "fp32"),
        " × ".join(map(str, sides)),
        _megabytes(main),
        pairs,
    )


def _megabytes(path: Path) -> float | None:
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6
    return path.stat().st_size / 1e6 if path.is_file() else None
