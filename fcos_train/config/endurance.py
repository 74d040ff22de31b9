"""Options that decide what a training does when something goes wrong: deadlines, checkpoints, faulty samples.

:class:`TrainOptions` inherits them, as it does those of :mod:`fcos_train.config.recipe`.
"""

from __future__ import annotations

from dataclasses import dataclass

from fcos_train.config.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Endurance(Recipe):
    """What ``fcos-train train`` is told about faults."""
