"""``fcos-train report``: the report page of a run, built again, or several runs side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fcos_train.config.fields import Option, Options, existing_folder
from mmcv_overrides.errors import UserError


@dataclass(frozen=True)
class ReportOptions(Options):
    """Which runs to report on."""

    work_dirs: Annotated[
        tuple[str, ...], Option("folders of trainings or evaluations", positional=True, check=existing_folder)
    ]
    compare: Annotated[bool, Option("one page with all runs side by side, instead of one for each")] = False
    output: Annotated[
        Path | None,
        Option("file of the comparison", metavar="FILE", default="compare.html in report/ of the first run"),
    ] = None

    def conflicts(self) -> list[str]:
        """Options that contradict each other."""
        faults = []
        if self.compare and len(self.work_dirs) < 2:
            faults.append("--compare needs at least two work dirs")
        if self.output is not None and not self.compare:
            faults.append("--output names the page of --compare; that of one run is report/index.html in its folder")
        return faults


def run(options: ReportOptions) -> int:
    """Write report/index.html of runs from the files in their work dirs, or compare them on one page."""
    from fcos_train.report.compare import compare
    from fcos_train.report.evaluation import Unavailable
    from fcos_train.report.page import build

    try:
        if options.compare:
            first = Path(options.work_dirs[0])
            print(f"comparison: {compare(options.work_dirs, options.output or first / 'report' / 'compare.html')}")
        else:
            for folder in options.work_dirs:
                print(f"report: {build(folder)}")
    except Unavailable as reason:
        raise UserError(str(reason)) from reason
    except OSError as error:
        raise UserError(f"the report cannot be written: {error}") from error
    return 0
