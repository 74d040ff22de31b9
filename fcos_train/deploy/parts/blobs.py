"""How far the maps of an artefact are from PyTorch's, level by level.

Shape symbols: K channels, H_l, W_l sides of the map of a level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Limits:
    """How far maps may be from PyTorch's.

    Attributes:
        logits: largest accepted difference of class and centerness logits; None: any.
        strides: of the distances of FCOS, in strides, or of other box channels in their own unit; None: any.
        cosine: smallest accepted cosine similarity of a map.
        near: a map whose largest difference is within this is accepted whatever its cosine similarity, which says
            little where all values are near zero (centerness of a level without objects); None: no such exception.
    """

    logits: float | None = None
    strides: float | None = None
    cosine: float = -1.0
    near: float | None = None


FLOAT32 = Limits(1e-3, 1e-3)


@dataclass(frozen=True)
class Blob:
    """Difference of one map, over all images.

    Attributes:
        name: of the output.
        part: cls, box or ctr. level: index of the level.
        largest: largest absolute difference; of distances in strides.
        cosine: smallest cosine similarity.
        fault: what is out of its limit, or None.
    """

    name: str
    part: str
    level: int
    largest: float
    cosine: float
    fault: str | None


def compare_maps(
    description: Mapping[str, Any],
    ours: Sequence[Sequence[np.ndarray]],
    theirs: Sequence[Sequence[np.ndarray]],
    limits: Limits,
) -> list[Blob]:
    """Compare the maps of some images.

    Args:
        description: of the artefact; its outputs name part, level and stride.
        ours: of each image the maps of the artefact, in the order of the description.
        theirs: the same maps from PyTorch.
    """
    in_px = description["decode"].get("unit") == "px"
    found = []
    for index, entry in enumerate(description["outputs"]):
        scale = 1 / float(entry["stride"]) if entry["part"] == "box" and in_px else 1.0
        pairs = [(np.asarray(a[index], np.float64), np.asarray(b[index], np.float64)) for a, b in zip(ours, theirs)]
        wrong = next((f"its shape is {a.shape}, PyTorch's {b.shape}" for a, b in pairs if a.shape != b.shape), None)
        if wrong is None:
            largest = max(float(np.abs(a - b).max(initial=0.0)) for a, b in pairs) * scale
            cosine = min(_cosine(a, b) for a, b in pairs)
            wrong = _fault(entry["part"], largest, cosine, limits)
        else:
            largest, cosine = float("nan"), float("nan")
        found.append(Blob(entry["name"], entry["part"], entry["level"], largest, cosine, wrong))
    return found


def _fault(part: str, largest: float, cosine: float, limits: Limits) -> str | None:
    most = limits.strides if part == "box" else limits.logits
    if not np.isfinite(largest):
        return "it has values that are not finite"
    if most is not None and largest > most:
        return f"difference {largest:.2e}, limit {most:g}"
    if cosine >= limits.cosine or limits.near is not None and largest <= limits.near:
        return None
    return f"cosine similarity {cosine:.4f}, limit {limits.cosine:g}"


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine similarity; 1 where both are zero."""
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / norms if norms else float(not (a.any() or b.any()))


def table(blobs: Sequence[Blob]) -> list[str]:
    """One line per map."""
    width = max(len(blob.name) for blob in blobs)
    return [
        f"  {blob.name:<{width}}  largest difference {blob.largest:.3e}  cosine {blob.cosine:.6f}  "
        + ("ok" if blob.fault is None else f"FAILED ({blob.fault})")
        for blob in blobs
    ]
