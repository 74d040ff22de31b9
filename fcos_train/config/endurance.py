"""Options that decide what a training does when something goes wrong: deadlines, checkpoints, faulty samples.

:class:`TrainOptions` inherits them, as it does those of :mod:`fcos_train.config.recipe`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from fcos_train.config.fields import Option
from fcos_train.config.recipe import Recipe

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}  # s
LONGEST_S = 365 * 86400


def seconds(value: str | float) -> float | None:
    """Seconds of a number, or of a text such as ``90s``, ``10m``, ``1.5h`` or ``1d``; None if it is neither."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(value))
    return float(match[1]) * UNITS[match[2]] if match else None


def deadline_fault(value: str | float) -> str | None:
    """Check of a deadline: from one second to a year."""
    found = seconds(value)
    if found is None or not 1 <= found <= LONGEST_S:
        return "give seconds, or a time such as 90s, 10m or 1h; at least 1 s and at most a year"
    return None


@dataclass(frozen=True, kw_only=True)
class Endurance(Recipe):
    """What ``fcos-train train`` is told about faults."""

    max_bad_samples: Annotated[
        int | None,
        Option(
            "go on while no more than so many training images cannot be read; others take their place, all are listed",
            metavar="N",
            default="0: the first one ends the training",
            least=0,
        ),
    ] = None
