"""The table of one exported model, with the logs of a board where there are any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fcos_train.deploy.parts.description import beside, read_description
from fcos_train.deploy.rdk.board_log import Measured, read_board_log
from fcos_train.deploy.rdk.table import report_lines, tensor_faults
from mmcv_overrides.errors import UserError
from mmcv_overrides.regular_files import MAX_TEXT, read_text


def model_table(model: str | Path, board_logs: Sequence[str | Path], all_nodes: bool) -> tuple[list[str], list[str]]:
    """The lines of the table, and where a board contradicts the description.

    Args:
        model: main file of an export. board_logs: texts that ``hrt_model_exec`` printed.

    Raises:
        UserError: no description, one of another target, or a text that is not of ``hrt_model_exec``.
    """
    place = beside(model)
    description = read_description(place)
    if "rdk" not in description:
        raise UserError(f"{place} is not of an export to rdk-x5 or rdk-x3")
    measured: list[Measured] = []
    faults: list[str] = []
    for log in board_logs:
        report = read_board_log(read_text(log, "output of hrt_model_exec", limit=MAX_TEXT), str(log))
        measured += report.measured
        if report.tensors:
            faults += tensor_faults(description, report.tensors)
    return report_lines(description["rdk"], measured, all_nodes), faults
