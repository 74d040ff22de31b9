"""Options that decide what a training does when something goes wrong: deadlines, checkpoints, faulty samples.

:class:`TrainOptions` inherits them, as it does those of :mod:`fcos_train.config.recipe`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fcos_train.config.fields import Option
from fcos_train.config.recipe import Recipe


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
