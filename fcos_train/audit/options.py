"""The options of an audit; importing them imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from fcos_train.config.fields import Option, Options
from fcos_train.config.options import OPT_LEVELS, CfgOptions, Config, Device, SafeConfig, loss_scale_fault

STEP_MODES = ("auto", "eager", "mmdet")  # a compiled or captured step launches other things than its operators


@dataclass(frozen=True)
class AuditOptions(Options):
    """What to audit: the options of a training that decide what a step launches, and the size of a batch.

    Raises:
        UserError: invalid values; all are reported in one message.
    """

    config: Config
    batch_size: Annotated[int, Option("images per step", metavar="N", least=1)] = 2
    shape: Annotated[
        tuple[int, int] | None,
        Option("height and width of the images in px", metavar="H W", default="the config's", least=1),
    ] = None
    device: Device = "auto"
    opt_level: Annotated[
        str | None, Option("precision, as in training", metavar="LEVEL", default="O1", choices=OPT_LEVELS)
    ] = None
    loss_scale: Annotated[
        str | float | None,
        Option("static loss scale, or dynamic", metavar="N", default="32.0", check=loss_scale_fault),
    ] = None
    step_mode: Annotated[str, Option("as in training", metavar="MODE", choices=STEP_MODES)] = "auto"
    steps: Annotated[int, Option("steps to run; the first step of a shape is not counted", metavar="N", least=2)] = 4
    graph_breaks: Annotated[bool, Option("also count where torch.compile leaves the graph (slow)")] = False
    safe_config: SafeConfig = False
    cfg_options: CfgOptions = field(default_factory=dict)
