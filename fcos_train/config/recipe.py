"""Options of a training that change its recipe: augmentation and what goes with it.

:class:`TrainOptions` inherits them. As everywhere in the options, None means that a flag was not given and the config
decides; :mod:`fcos_train.config.prepare` applies them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fcos_train.config.fields import Option, Options

AUGMENT = ("none", "light", "strong")


@dataclass(frozen=True, kw_only=True)
class Recipe(Options):
    """What ``fcos-train train`` has flags for, and a config would otherwise have to say."""

    augment: Annotated[
        str | None,
        Option(
            "random changes of training images: none; light (flip, zoom, colour); strong (mosaic and MixUp too)",
            metavar="PRESET",
            default="the config's",
            choices=AUGMENT,
        ),
    ] = None
