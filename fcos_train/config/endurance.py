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
            "go on when training images cannot be read: up to so many are replaced by others, and listed at the end",
            metavar="N",
            default="0: the first one ends the training",
            least=0,
        ),
    ] = None
