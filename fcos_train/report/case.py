"""The case log, the file of losses and the final block that the launchers leave, in the format of the Ascend recipes.

The first ten entries of a case log are those of the original launchers, in their order; programs read them. The entries
behind them are ours: the columns of the results table that the original guides print, and that table's row.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from fcos_train.report.summary import NONE, Summary

COLUMNS = ("Acc@1", "FPS", "Npu/Gpu_nums", "Epochs", "AMP_Type", "Loss_Scale")


@dataclass(frozen=True)
class Case:
    """What a launcher knows about its training, for the files that it writes.

    Attributes:
        network: first part of the config's name, upper case. rank_size: devices per machine. seconds: wall time.
        batch_size: images per device, where the work dir does not tell.
        folder: where the files go.
        nodes: number of machines. device: kind of the devices: cpu, cuda or npu.
    """

    network: str
    rank_size: int
    batch_size: int
    seconds: int
    folder: Path
    nodes: int = 1
    device: str = NONE

    @property
    def devices(self) -> int:
        """Number of devices of all machines."""
        return self.rank_size * self.nodes


def write_case(summary: Summary, case: Case) -> str:
    """Write the case log and the file of losses.

    Returns:
        the lines that a launcher prints.

    Raises:
        OSError: the folder cannot be written.
    """
    batch = summary.batch_size or case.batch_size
    name = f"{case.network}_bs{batch}_{case.rank_size}p_acc"
    fps = NONE if summary.fps is None else f"{summary.fps:.2f}"
    accuracy = NONE if summary.accuracy is None else f"{summary.accuracy:.4f}"
    entries = {
        "Network": case.network,
        "RankSize": case.rank_size,
        "BatchSize": batch,
        "DeviceType": platform.machine(),
        "CaseName": name,
        "ActualFPS": fps,
        "TrainingTime": f"{batch * 1000 / float(fps):.2f}" if fps not in (NONE, "0.00") else NONE,  # ms
        "TrainAccuracy": accuracy,
        "ActualLoss": summary.losses[-1] if summary.losses else "",
        "E2ETrainingTime": case.seconds,
        "Nodes": case.nodes,
        "Devices": case.devices,
        "DeviceKind": case.device,
        "Epochs": NONE if summary.epoch is None else summary.epoch,
        "AMP_Type": summary.opt_level or NONE,
        "Loss_Scale": summary.loss_scale or NONE,
        "TableHead": _row(COLUMNS),
        "TableRow": table_row(summary, case),
    }
    losses = case.folder / f"train_{name}_loss.txt"
    losses.write_text("".join(f"{loss}\n" for loss in summary.losses), encoding="utf-8")
    log = case.folder / f"{name}.log"
    log.write_text("".join(f"{key} = {value}\n" for key, value in entries.items()), encoding="utf-8")
    why = [f"no FPS: {summary.no_fps}"] if summary.no_fps else []
    return "\n".join(
        [
            "------------------ Final result ------------------",
            f"Final Performance images/sec : {fps}",
            f"Final Train Accuracy : {accuracy}",
            f"E2E Training Duration sec : {case.seconds}",
            *why,
            f"results table, head: {_row(COLUMNS)}",
            f"results table, row:  {table_row(summary, case)}",
            f"case log: {log}",
        ]
    )


def table_row(summary: Summary, case: Case) -> str:
    """The row of the guides' results table: accuracy in percent as there, speed, devices, epochs, precision.

    The devices are those of all machines; their kind follows the number, because a table may hold several.
    """
    return _row(
        (
            NONE if summary.accuracy is None else f"{100 * summary.accuracy:.1f}",
            NONE if summary.fps is None else f"{summary.fps:.1f}",
            f"{case.devices} ({case.device})",
            NONE if summary.epoch is None else str(summary.epoch),
            summary.opt_level or NONE,
            summary.loss_scale or NONE,
        )
    )


def _row(cells: tuple[str, ...]) -> str:
    """Cells as a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"
