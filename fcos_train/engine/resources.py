"""Logs once per epoch what the processes of a training hold, so that a leak shows long before memory runs out.

Private memory counts what a process alone would give back: the resident size of a forked loader process has the pages
that it shares with the trainer too, and of these the kernel moves more and more to the process that writes them.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from multiprocessing import active_children
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmcv_overrides.json_log import ContractLoggerHook
from mmcv_overrides.text_log import FOR_SCRIPTS

_PROC = Path("/proc")
_MIB = 1024  # KiB, the unit of the kernel's files
MODE = "process"  # of the records in the JSON log; curves are named process/main_mb, ...


@dataclass(frozen=True)
class Held:
    """What the first rank and its loader processes hold.

    Attributes:
        main_mb: private memory of the trainer, MiB. workers_mb: of all its loader processes together.
        workers: their number. files: open descriptors of the trainer. threads: of the trainer.
    """

    main_mb: float
    workers_mb: float
    workers: int
    files: int
    threads: int

    def __str__(self) -> str:
        processes = f"{self.workers} loader process{'es' if self.workers != 1 else ''}"
        return (
            f"{self.main_mb:.1f} MiB private memory, {self.workers_mb:.1f} MiB in {processes}, "
            f"{self.files} open files, {self.threads} threads"
        )


def private_mb(process: int | str) -> float:
    """Memory that a process shares with no other one, MiB.

    Raises:
        OSError: there is no such process, or this is no Linux.
    """
    lines = (_PROC / str(process) / "smaps_rollup").read_text().splitlines()
    sizes = [int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:"))]
    return sum(sizes) / _MIB


def held() -> Held | None:
    """What this process and its loader processes hold; None where the system does not tell (it is no Linux)."""
    workers = [child.pid for child in active_children() if child.daemon and child.pid is not None]
    try:
        status = dict(line.split(":", 1) for line in (_PROC / "self" / "status").read_text().splitlines())
        return Held(
            round(private_mb("self"), 1),
            round(sum(map(_private_mb_or_0, workers)), 1),
            len(workers),
            len(os.listdir(_PROC / "self" / "fd")) - 1,  # the listing itself is one
            int(status["Threads"]),
        )
    except OSError:
        return None


def _private_mb_or_0(process: int) -> float:
    """Its private memory; 0 if it has just ended."""
    try:
        return private_mb(process)
    except OSError:
        return 0.0


class ResourcesHook(Hook):
    """A line in the log, a record in the JSON log and curves after every epoch of training, of the first rank."""

    priority = "VERY_LOW"  # after a checkpoint is saved

    def after_train_epoch(self, runner: Runner) -> None:
        """Log what is held now; what a validation leaves behind shows after the next epoch."""
        if not is_main_process():
            return
        found = held()
        epoch = runner.epoch + 1
        if found is None:
            if epoch == 1:
                runner.logger.info("memory of the processes is not logged: only Linux tells it", extra=FOR_SCRIPTS)
            return
        runner.logger.info(f"Epoch [{epoch}] holds {found}", extra=FOR_SCRIPTS)
        for hook in runner.hooks:
            if isinstance(hook, ContractLoggerHook):
                hook.write_record(runner, asdict(found), MODE, {"epoch": epoch, "iter": runner.iter})
