"""Trainings to disturb that lack the seconds of imports: forks of one interpreter that is ready, see command_server."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from tests.support.command_server import COMMAND, CommandServer
from tests.support.commands import ROOT
from tests.support.faults import TINY, Process


class Handle:
    """What :class:`Process` needs of a ``subprocess.Popen``, for a fork of the server.

    Args:
        server: that has forked it. pid: of the fork, or of the first of several ranks.
    """

    def __init__(self, server: CommandServer, pids: list[int]) -> None:
        self._server, self.pid, self.pids = server, pids[0], pids
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        if self.returncode is None:
            self.returncode = self._server.status(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status (negative: the signal that ended it)."""
        if self.returncode is None:
            self.returncode = self._server.status(timeout or 600.0)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("fork", timeout or 600.0)
        return self.returncode


class Forked(Process):
    """A command of the product as a fork, its output in a file. A server has one at a time.

    Args:
        server: forks it. arguments: of ``fcos-train``. log: gets standard output and standard error.
        ranks: processes of a distributed training, one each. extra: environment variables.
    """

    def __init__(self, server: CommandServer, arguments: list[str], log: Path, ranks: int = 1, **extra: str) -> None:
        self.log = log
        log.write_bytes(b"")
        self.popen = Handle(server, server.begin(arguments, log, extra, COMMAND, ranks))  # type: ignore[assignment]

    def left(self) -> list[str]:
        """Process ids that are still there."""
        return [str(pid) for pid in self.popen.pids if Path(f"/proc/{pid}").exists()]

    def end(self) -> None:
        """Kill it, and the processes that it has started."""
        for pid in self.popen.pids:
            try:
                os.killpg(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.popen.wait(60)


CONFIG = """
_base_ = {base!r}
custom_imports = dict(imports=["tests.support.fault_moments"])
custom_hooks = [dict(type="FaultFromEnvironment")]
train_cfg = dict(max_epochs=4, val_interval=1)
train_dataloader = dict(batch_size=4)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1, max_keep_ckpts=2))
"""


def train(
    server: CommandServer, data: Path, work_dir: Path, *words: str, ranks: int = 1, fault: str = "", scores: str = ""
) -> Forked:
    """``fcos-train train`` of the tiny config for four epochs, each validated, with a fault of ``fault_moments``.

    Args:
        data: a data set; what the run prints, and its config, are beside it. scores: of the four validations.
    """
    place = data.parent
    config = place / "tiny_with_faults.py"
    config.write_text(CONFIG.format(base=str(ROOT / "configs" / f"{TINY[0]}.py")))
    log = place / f"{work_dir.name}_{time.monotonic_ns()}.txt"
    launch = ("--launcher", "pytorch") if ranks > 1 else ()
    arguments = ["train", str(config), *TINY[1:], "--data-path", str(data), "--work-dir", str(work_dir)]
    extra = {"FCOS_TEST_FAULT": fault, "FCOS_TEST_SCORES": scores}
    return Forked(server, [*arguments, "--device", "cpu", *launch, *words], log, ranks, **extra)
