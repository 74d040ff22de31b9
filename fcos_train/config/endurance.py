"""Options that decide what a training does when something goes wrong: deadlines, checkpoints, faulty samples.

:class:`TrainOptions` inherits them, as it does those of :mod:`fcos_train.config.recipe`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fcos_train.config.fields import Option
from fcos_train.config.recipe import Recipe

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}  # s
LONGEST_S = 365 * 86400
IF_ANY = "if-any"  # --resume: from the newest checkpoint, or anew where there is none


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


def _every_fault(value: str | int) -> str | None:
    text = str(value)
    whole = text.isdecimal() and int(text) >= 1
    if whole or (text[-1:] in ("s", "m", "h", "d") and 1 <= (seconds(text) or 0) <= LONGEST_S):
        return None
    return "give a number of iterations such as 200, or a time such as 90s, 10m or 1h"


def _last(words: Sequence[str]) -> str:
    return words[-1]


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
    dist_timeout: Annotated[
        str | float | None,
        Option(
            "longest time that a rank waits for another one, in a step, while saving, in a validation and while the "
            "data are prepared",
            metavar="S",
            default="FCOS_DIST_TIMEOUT, else 600",
            check=deadline_fault,
            parse=_last,
        ),
    ] = None
    rendezvous_timeout: Annotated[
        str | float | None,
        Option(
            "longest time that the ranks wait for each other at the start",
            metavar="S",
            default="FCOS_RENDEZVOUS_TIMEOUT, else 600",
            check=deadline_fault,
            parse=_last,
        ),
    ] = None
    checkpoint_every: Annotated[
        str | int | None,
        Option(
            "also save a checkpoint after every N iterations, or after a time such as 10m; the two newest are kept",
            metavar="N|TIME",
            default="the config's checkpoints only",
            check=_every_fault,
            parse=_last,
        ),
    ] = None
    max_restarts: Annotated[
        int | None,
        Option(
            "with --devices: start all ranks again after a failure, at most N times, from the newest checkpoint",
            metavar="N",
            default="0",
            least=0,
        ),
    ] = None

    def conflicts(self) -> list[str]:
        """A number of restarts where this command starts no ranks."""
        faults = list(super().conflicts())
        if self.max_restarts and (getattr(self, "devices", None) or 1) < 2:
            faults.append(
                "--max-restarts needs --devices N, with which this command starts the ranks; torchrun has "
                "--max-restarts, the launchers --max_restarts"
            )
        return faults

    def deadlines(self) -> dict[str, str]:
        """The environment variables that stand for the deadlines that were given."""
        given = {"FCOS_DIST_TIMEOUT": self.dist_timeout, "FCOS_RENDEZVOUS_TIMEOUT": self.rendezvous_timeout}
        return {name: str(seconds(value)) for name, value in given.items() if value is not None}
