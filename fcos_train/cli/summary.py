"""``fcos-train summary``: the final numbers of a run, from the files in its work dir."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fcos_train.config.fields import Option, Options
from fcos_train.report.case import Case, write_case
from fcos_train.report.summary import NONE, as_json, as_text, summarise
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable_lines

FORMATS = ("text", "json", "launcher")
KINDS = ("cpu", "cuda", "npu")
_LAUNCHER = "for --format launcher: "


@dataclass(frozen=True)
class SummaryOptions(Options):
    """Which run to summarise. Those after ``format`` describe the training to ``--format launcher`` alone."""

    work_dir: Annotated[str, Option("folder of a training or an evaluation", positional=True)]
    format: Annotated[
        str,
        Option(
            "text, json, or launcher: print what test/train_*.sh print, and write their case log and losses",
            metavar="FORMAT",
            choices=FORMATS,
        ),
    ] = "text"
    case_dir: Annotated[str, Option(_LAUNCHER + "folder for the two files", metavar="DIR")] = "."
    network: Annotated[str, Option(_LAUNCHER + "name of the network", metavar="NAME")] = "FCOS"
    rank_size: Annotated[int, Option(_LAUNCHER + "devices per machine", metavar="N", least=1)] = 1
    batch_size: Annotated[
        int, Option(_LAUNCHER + "images per device, if the run's config.py is absent", metavar="N", least=1)
    ] = 1
    seconds: Annotated[int, Option(_LAUNCHER + "duration of the training", metavar="S", least=0)] = 0
    nodes: Annotated[int, Option(_LAUNCHER + "number of machines", metavar="N", least=1)] = 1
    device_kind: Annotated[
        str | None, Option(_LAUNCHER + "kind of the devices", metavar="KIND", default="not known", choices=KINDS)
    ] = None


def run(options: SummaryOptions) -> int:
    """Print speed, losses and accuracy of a run from the files in its work dir."""
    print(printable_lines(_output(options)))
    return 0


def _output(options: SummaryOptions) -> str:
    """The text to print.

    Raises:
        UserError: the work dir has no log, or the launcher's files cannot be written.
    """
    if options.format == "launcher":
        folder = Path(options.case_dir)
        case = Case(
            options.network,
            options.rank_size,
            options.batch_size,
            options.seconds,
            folder,
            options.nodes,
            options.device_kind or NONE,
        )
        try:
            return write_case(summarise(options.work_dir, last_session=True), case)
        except OSError as error:
            raise UserError(f"cannot write into {folder}: {error.strerror or error}") from error
    summary = summarise(options.work_dir)
    if summary.is_empty:
        raise UserError(f"{options.work_dir}: no *.log.json with results of a training or an evaluation")
    return as_json(summary) if options.format == "json" else as_text(summary)
