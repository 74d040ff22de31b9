"""Trainings as real processes that a test disturbs: each in a session of its own, watched through its log."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mmcv_overrides.signals import descendants
from tests.support.commands import ROOT, environment

TINY = ("fcos/fcos_tiny_shapes", "--opt-level", "O0", "--workers", "0", "--no-report", "--no-check", "--seed", "0")
LOSS = re.compile(r"Epoch \[(\d+)\]\[(\d+)/\d+\].*\bloss: ([\d.]+)")


class Process:
    """A command in a session of its own, its output in a file.

    Args:
        command: words. log: the file that gets standard output and standard error. extra: environment variables.
    """

    def __init__(self, command: Sequence[str | Path], log: Path, **extra: str) -> None:
        self.log = log
        with log.open("wb") as file:
            self.popen = subprocess.Popen(
                [str(word) for word in command],
                cwd=ROOT,
                env=environment(**extra),
                stdout=file,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=_take_signals,
            )

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.log.read_text(errors="replace")

    def wait_for(self, pattern: str, timeout: float = 120) -> re.Match[str]:
        """Wait until the output matches; an assertion fails after ``timeout`` s or when the process has ended."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            ended = self.popen.poll() is not None
            if found := re.search(pattern, self.text):
                return found
            assert not ended, f"ended with {self.popen.returncode} before {pattern!r}:\n{self.text[-3000:]}"
            time.sleep(0.05)
        self.end()
        raise AssertionError(f"no {pattern!r} within {timeout} s:\n{self.text[-3000:]}")

    def send(self, number: signal.Signals, group: bool = False) -> None:
        """Send a signal to the process, or to its whole process group as a terminal does."""
        (os.killpg if group else os.kill)(self.popen.pid, number)

    def status(self, timeout: float = 60) -> int:
        """Exit status (negative: the signal that ended it); the process is killed, and the test fails, after it."""
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.end()
            raise AssertionError(f"still running after {timeout} s:\n{self.text[-3000:]}") from None

    def rank(self, number: int) -> int:
        """Process id of a rank: the first process of the family that has it in its environment."""
        family = sorted([self.popen.pid, *descendants(self.popen.pid)])
        wanted = f"RANK={number}".encode()
        return next(one for one in family if wanted in Path(f"/proc/{one}/environ").read_bytes().split(b"\0"))

    def left(self) -> list[str]:
        """Command lines of the processes of its session that are still there."""
        return [line for _, line in _of_session(self.popen.pid)]

    def end(self) -> None:
        """Kill whatever is left of its session."""
        for process, _ in _of_session(self.popen.pid):
            os.kill(process, signal.SIGKILL)
        self.popen.wait()


def _take_signals() -> None:
    """A suite that a shell has started in the background ignores SIGINT; under ``nohup`` SIGHUP too."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)


def _of_session(session: int) -> list[tuple[int, str]]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, of = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            line = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:  # it ended meanwhile
            continue
        if int(of) == session and state != "Z":
            found.append((int(folder.name), line))
    return found


def train(
    data: Path, work_dir: Path, *words: str, ranks: int = 1, torchrun: Sequence[str] = (), **extra: str
) -> Process:
    """``fcos-train train`` of the tiny config; with ranks, under torchrun with words of its own."""
    launch = (
        ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}", *torchrun] if ranks > 1 else []
    )
    command: list[str | Path] = [
        sys.executable,
        *launch,
        "-m",
        "fcos_train",
        "train",
        *TINY,
        "--data-path",
        data,
        "--work-dir",
        work_dir,
    ]
    work_dir.mkdir(parents=True, exist_ok=True)
    return Process([*command, "--device", "cpu", *words], work_dir.parent / f"{work_dir.name}.txt", **extra)


def losses(text: str) -> dict[tuple[int, int], str]:
    """Loss as printed, by (epoch, iteration)."""
    return {(int(epoch), int(step)): loss for epoch, step, loss in LOSS.findall(text)}
