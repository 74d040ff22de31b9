"""Toy trainings as forks of the test's process, so that a test can kill them: a tenth of a second each."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from mmengine.runner import Runner

from mmcv_overrides.checkpoint.background import wait_for_all
from mmcv_overrides.errors import UserError
from tests.support.fault_moments import Fault
from tests.support.toy_runner import toy_runner

LOOP = dict(type="ResumableEpochLoop")
SCORES = (0.1, 0.5, 0.3, 0.9)  # of four epochs
ITERS = 16


def forked(work: Callable[[], object], log: Path, timeout: float = 60) -> int:
    """Exit status of ``work`` in a fork: 0, 2 for a fault of the user's (one line in ``log``), 1 with a traceback in
    ``log``; negative: the signal that ended it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for number in (1, 2):
                os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
            sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
            status = _status(work)
        finally:
            os._exit(status)
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        process, ended = os.waitpid(child, os.WNOHANG)
        if process:
            return os.waitstatus_to_exitcode(ended)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"still running after {timeout} s: {log.read_text()[-2000:]}")


def _status(work: Callable[[], object]) -> int:
    try:
        work()
        return 0
    except UserError as error:
        wait_for_all()
        os.write(2, f"error: {error}\n".encode())
        return 2
    except BaseException:
        wait_for_all()
        os.write(2, traceback.format_exc().encode())
        return 1


def train(folder: Path, fault: str = "", resume: bool = False, **options: object) -> int:
    """Train the toy for 16 iterations, with validation after each epoch of four. Returns the exit status.

    What it prints is in ``<folder>.txt``.
    """
    settings = {"scores": [0.0] * 8, "save_best": "mAP", "loop": LOOP, **options}

    def work() -> None:
        Runner._log_env = lambda runner, settings: None  # it asks compilers for their versions
        runner = toy_runner(folder, resume=resume, **settings)
        runner.register_hook(Fault(fault, SCORES))
        runner.train()

    return forked(work, folder.parent / f"{folder.name}.txt")
