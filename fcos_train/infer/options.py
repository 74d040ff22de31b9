"""The options of the demo; importing them imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fcos_train.config.fields import Option, Options, existing
from fcos_train.config.options import Device, OptionalConfig, SafeConfig, TrustCheckpoint


@dataclass(frozen=True)
class DemoOptions(Options):
    """What to draw, from where and to where.

    Raises:
        UserError: invalid values; all are reported in one message.
    """

    checkpoint: Annotated[str, Option("a .pth file; its config is read from it", positional=True, check=existing)]
    img: Annotated[
        str | None,
        Option(
            "image, folder of images, pattern in quotes ('*.png'), video, or camera number",
            metavar="FILE|DIR|VIDEO|N",
            default="demo/demo.jpg if present, else the first validation image, else a generated one",
        ),
    ] = None
    config: OptionalConfig = None
    device: Device = "auto"
    score_thr: Annotated[float, Option("smallest score that is drawn", metavar="S", least=0, most=1)] = 0.3
    show_dir: Annotated[str, Option("folder for the drawn images", metavar="DIR")] = "."
    show: Annotated[bool, Option("also open a window (any key shows the next image, q stops)")] = False
    trust_checkpoint: TrustCheckpoint = False
    safe_config: SafeConfig = False
