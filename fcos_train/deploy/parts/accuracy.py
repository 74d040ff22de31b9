"""Whether an exported model is as accurate as its checkpoint: two mAPs and their difference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fcos_train.deploy.parts.coco_numbers import CocoNumbers

TOLERANCE, HALF_TOLERANCE, INT8_TOLERANCE = 0.001, 0.003, 0.02


def tolerance_of(description: Mapping[str, Any], half: bool = False) -> float:
    """Largest accepted difference of the mAPs, by the number type of an artefact.

    Args:
        description: of the artefact. half: it computes in half precision, whatever the description says.
    """
    if description.get("precision") == "int8":
        return INT8_TOLERANCE
    in_half = half or description.get("precision") == "fp16" or description.get("end") == "ascend"
    return HALF_TOLERANCE if in_half else TOLERANCE


@dataclass(frozen=True)
class Comparison:
    """COCO numbers of a checkpoint and of its export, on the same prepared images.

    Attributes:
        pth, exported: numbers of the checkpoint and of the export.
        tolerance: largest accepted difference of the mAPs.
        images: number of images.
    """

    pth: CocoNumbers
    exported: CocoNumbers
    tolerance: float
    images: int

    @property
    def difference(self) -> float:
        """Absolute difference of the two mAPs."""
        return abs(self.pth.stats[0] - self.exported.stats[0])

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance, compared as printed: to four decimals."""
        return round(self.difference, 4) <= self.tolerance

    def lines(self) -> list[str]:
        """A table of mAP, AP50 and AP75, and the verdict."""

        def row(name: str, values: Iterable[float]) -> str:
            return f"{name:<14}" + "".join(f"{value:>10.4f}" for value in values)

        pth, exported = self.pth.stats[:3], self.exported.stats[:3]
        verdict = "within" if self.agrees else "ABOVE"
        return [
            f"{'':<14}" + "".join(f"{name:>10}" for name in ("mAP", "AP50", "AP75")),
            row("pth", pth),
            row("exported", exported),
            row("difference", (abs(a - b) for a, b in zip(pth, exported, strict=True))),
            f"{self.images} images; the difference in mAP is {verdict} the tolerance of {self.tolerance:g}",
        ]
