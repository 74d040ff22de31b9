"""Options of a training that change its recipe: learning rate, evaluations, data, augmentation, loggers.

:class:`TrainOptions` inherits them. As everywhere in the options, None means that a flag was not given and the config
decides; :mod:`fcos_train.config.prepare` applies them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fcos_train.config.fields import Option, Options, square

AUGMENT = ("none", "light", "strong")
LOGGERS = ("tensorboard", "wandb", "mlflow", "clearml")
MAX_SIDE = 16_384  # px; an image of this side is 0.8 GB
SHARE = "0.2"  # --balance without a value


def _positive(value: float) -> str | None:
    return None if 0 < value < float("inf") else "must be above 0"


def _freeze_fault(value: str) -> str | None:
    return None if value == "backbone" or str(value).isdecimal() else "give a number of stages, or backbone"


@dataclass(frozen=True, kw_only=True)
class Recipe(Options):
    """What ``fcos-train train`` has flags for, and a config would otherwise have to say."""

    lr: Annotated[
        float | None,
        Option("learning rate; taken as it is", metavar="LR", default="the config's, scaled", check=_positive),
    ] = None
    accumulate: Annotated[
        int | None,
        Option(
            "batches whose gradients make one step; the learning rate follows the larger global batch",
            metavar="N",
            default="the config's",
            least=1,
        ),
    ] = None
    eval_every: Annotated[
        int | None,
        Option(
            "epochs (iterations, if the config counts them) from one evaluation to the next",
            metavar="N",
            default="the config's",
            least=1,
        ),
    ] = None
    patience: Annotated[
        int | None,
        Option("stop after so many evaluations without a better mAP", metavar="N", default="no early stop", least=1),
    ] = None
    ema: Annotated[bool | None, Option("evaluate and save a moving average of the weights")] = None
    val_loss: Annotated[bool | None, Option("log the losses on the validation images at every evaluation")] = None
    freeze: Annotated[
        str | None,
        Option(
            "do not train the first N stages of the backbone (0: its stem), or all of it",
            metavar="N|backbone",
            default="the config's",
            check=_freeze_fault,
        ),
    ] = None
    img_size: Annotated[
        tuple[int, int] | None,
        Option(
            "resize images to fit into W x H px, in training and evaluation (one number: into a square)",
            metavar="W H",
            default="the config's",
            least=32,
            most=MAX_SIDE,
            expected="give one or two numbers of px",
            parse=square,
        ),
    ] = None
    augment: Annotated[
        str | None,
        Option(
            "random changes of training images: none; light (flip, zoom, colour); strong (mosaic and MixUp too)",
            metavar="PRESET",
            default="the config's",
            choices=AUGMENT,
        ),
    ] = None
    keep_empty: Annotated[bool | None, Option("train on images without objects too")] = None
    balance: Annotated[
        float | None,
        Option(
            "repeat images of classes that fewer than this share of the images have",
            metavar="SHARE",
            default=f"no repetition; {SHARE} without a value",
            least=0.001,
            most=1,
            bare=SHARE,
        ),
    ] = None
    logger: Annotated[
        tuple[str, ...] | None,
        Option("write curves there too", metavar="NAME", default="the config's and TensorBoard", choices=LOGGERS),
    ] = None

    def conflicts(self) -> list[str]:
        """Flags of which one would have no effect."""
        faults = []
        if not getattr(self, "validate", True):
            given = [name for name in ("eval_every", "patience", "val_loss") if getattr(self, name)]
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            faults += [f"{flags} needs evaluations, and --no-validate turns them off"] if flags else []
        if self.lr is not None and getattr(self, "lr_base", None) is not None:
            faults.append("--lr is taken as it is, and --lr-base scales the config's learning rate: give one of them")
        return faults
