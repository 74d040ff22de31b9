"""``fcos-train summary``: the final numbers of a run, from the files in its work dir."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields
from pathlib import Path

from fcos_train.report.summary import Case, as_json, as_text, summarise, write_case
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable_lines

FORMATS = ("text", "json", "launcher")


@dataclass(frozen=True)
class SummaryOptions:
    """Options of the verb. Those after ``format`` describe the training to ``--format launcher`` alone."""

    work_dir: str
    format: str = "text"
    case_dir: str = "."
    network: str = "FCOS"
    rank_size: int = 1
    batch_size: int = 1
    seconds: int = 0


def add_parser(subparsers: argparse._SubParsersAction) -> argparse.ArgumentParser:
    """The flags of the verb."""
    parser = subparsers.add_parser(
        "summary",
        help="print the final numbers of a run",
        description="Print speed, losses and accuracy of a run from the files in its work dir.",
    )
    add = parser.add_argument
    add("work_dir", metavar="WORK_DIR", help="folder of a training or an evaluation")
    add(
        "--format",
        choices=FORMATS,
        default="text",
        help="text (default), json, or launcher: the output of test/train_*.sh, with their case log and file of losses",
    )
    launcher = parser.add_argument_group("for --format launcher")
    add = launcher.add_argument
    add("--case-dir", metavar="DIR", default=".", help="where the two files go (default: the current folder)")
    add("--network", metavar="NAME", default="FCOS", help="name of the network (default FCOS)")
    add("--rank-size", type=int, metavar="N", default=1, help="devices per machine (default 1)")
    add("--batch-size", type=int, metavar="N", default=1, help="images per device, if the run's config.py is absent")
    add("--seconds", type=int, metavar="S", default=0, help="duration of the training (default 0)")
    return parser


def run(args: argparse.Namespace) -> int:
    """Print the summary."""
    options = SummaryOptions(**{field.name: getattr(args, field.name) for field in fields(SummaryOptions)})
    print(printable_lines(_output(options)))
    return 0


def _output(options: SummaryOptions) -> str:
    """The text to print.

    Raises:
        UserError: the work dir has no log, or the launcher's files cannot be written.
    """
    if options.format == "launcher":
        folder = Path(options.case_dir)
        case = Case(options.network, options.rank_size, options.batch_size, options.seconds, folder)
        try:
            return write_case(summarise(options.work_dir, last_session=True), case)
        except OSError as error:
            raise UserError(f"cannot write into {folder}: {error.strerror or error}") from error
    summary = summarise(options.work_dir)
    if summary.is_empty:
        raise UserError(f"{options.work_dir}: no *.log.json with results of a training or an evaluation")
    return as_json(summary) if options.format == "json" else as_text(summary)
