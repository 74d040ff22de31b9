"""Faults of ranks: (fault, moment, what must hold), with two gloo ranks under torchrun or ``--devices``."""

from __future__ import annotations

import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.faults import Process, losses, train

TIMEOUT = 8  # s, --dist-timeout of the rows that stall
EVERY_STEP = ("--cfg-options", "default_hooks.logger.interval=1")
BEGUN, STEP_3 = "Checkpoints will be saved to", r"Epoch \[1\]\[3/"
slow = pytest.mark.slow_fault


@dataclass(frozen=True)
class Stall:
    """A rank stops, or fails, at a moment.

    Attributes:
        fault: a signal to rank 1, or to ``rank``. moment: a pattern of the output.
        named: what the message must say. words: of the training. rank: that has the fault.
        seconds: from the fault to the end of all processes: the timeout, and 45 s.
        grace: s, that torchrun gives a rank which it ends; 30 unless told otherwise.
    """

    fault: signal.Signals
    moment: str
    named: str
    words: tuple[str, ...] = ("--no-validate",)
    rank: int = 1
    seconds: float = TIMEOUT + 45
    grace: str = "30"


SAVES = ("--no-validate", "--checkpoint-every", "3")
STALLS = {
    "rank 1 is stopped in a step: it is named with the step": Stall(
        signal.SIGSTOP, STEP_3, r"waiting for rank 1 \(step \d+ [a-z ]+; it does not answer\)", grace="2"
    ),
    "rank 0 is stopped while it saves: it is named with the file": Stall(
        signal.SIGSTOP, "STOPPED HERE: saving", r"waiting for rank 0 \(saving iter_3.pth.*it does not answer", SAVES, 0
    ),
    "rank 1 is stopped in a validation: it is named with the validation": Stall(
        signal.SIGSTOP, "STOPPED HERE: a validation", r"waiting for rank 1 \(a validation.*it does not answer", ()
    ),
    "rank 1 is stopped while the data are prepared: it is named": Stall(
        signal.SIGSTOP, "STOPPED HERE: preparing", r"waiting for rank 1 \(preparing the data; it does not answer"
    ),
    "rank 1 gets kill -9: all are gone": Stall(signal.SIGKILL, STEP_3, r"Signal 9 \(SIGKILL\)", seconds=30),
    "rank 0 gets kill -9: all are gone": Stall(signal.SIGKILL, STEP_3, r"Signal 9 \(SIGKILL\)", rank=0, seconds=30),
}
QUICK = ("rank 1 is stopped in a step: it is named with the step",)

# A rank stops itself where its place has the text: the moment is then exact. The program is found through PYTHONPATH.
STOPPER = """
import os, signal, sys
place, rank = os.environ.get("STOP_AT"), os.environ.get("RANK")
if place and rank == os.environ.get("STOP_RANK"):
    import threading, time
    def look():
        while "mmcv_overrides.stalls" not in sys.modules:
            time.sleep(0.05)
        from mmcv_overrides.stalls import Watch
        note = Watch.note
        def stop(self, where):
            note(self, where)
            if place in str(where) and where.step + 1 > (place != "preparing"):
                print("STOPPED HERE:", where, flush=True)
                os.kill(os.getpid(), signal.SIGSTOP)
        Watch.note = stop
    threading.Thread(target=look, daemon=True).start()
"""


@pytest.mark.parametrize("name", [pytest.param(name, id=name, marks=() if name in QUICK else slow) for name in STALLS])
def test_a_rank_that_stops(name, shapes, tmp_path) -> None:
    row = STALLS[name]
    extra: dict[str, str] = {}
    if "STOPPED" in row.moment:
        (tmp_path / "site").mkdir()
        (tmp_path / "site" / "sitecustomize.py").write_text(STOPPER)
        root = Path(__file__).resolve().parents[2]
        path = os.pathsep.join((str(tmp_path / "site"), str(root)))
        extra = {"PYTHONPATH": path, "STOP_AT": row.moment.split(": ")[1], "STOP_RANK": str(row.rank)}
    extra["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = row.grace
    words = ("--batch-size", "2", "--max-iters", "200", "--dist-timeout", str(TIMEOUT), *row.words, *EVERY_STEP)
    run = train(shapes, tmp_path / "w", *words, ranks=2, **extra)
    try:
        run.wait_for(row.moment)
        if "STOPPED" not in row.moment:
            os.kill(run.rank(row.rank), row.fault)
        start = time.monotonic()
        assert run.status(row.seconds + 30) == 1
        assert time.monotonic() - start < row.seconds
        assert re.search(row.named, run.text), run.text[-4000:]
        if row.fault == signal.SIGSTOP:
            assert f"stack of rank {1 - row.rank}:" in run.text
            summary = run.text[run.text.rindex("Root Cause") :]
            assert "training stopped while waiting for" in summary  # also in the summary of torchrun, which is the end
    finally:
        run.end()


def undisturbed(shapes: Path, folder: Path) -> dict[tuple[int, int], str]:
    run = train(shapes, folder, *RUN, ranks=2)
    assert run.status(400) == 0, run.text[-3000:]
    return losses(run.text)


RUN = ("--batch-size", "2", "--max-iters", "8", "--no-validate", "--checkpoint-every", "2", *EVERY_STEP)


@slow
def test_a_rank_killed_three_times_and_once_before_any_checkpoint_ends_with_the_undisturbed_losses(shapes, tmp_path):
    run = train(shapes, tmp_path / "w", *RUN, ranks=2, torchrun=("--max-restarts=3",))
    try:
        for moment in (BEGUN, r"Epoch \[1\]\[3/", r"Epoch \[1\]\[5/"):
            wait_for_next(run, moment)
        assert run.status(400) == 0, run.text[-3000:]
    finally:
        run.end()
    assert run.text.count("(restarted)") == 3
    assert run.text.count("no checkpoint in") == 1
    assert losses(run.text) == undisturbed(shapes, tmp_path / "whole")


def wait_for_next(run: Process, moment: str) -> None:
    """Kill rank 1 when the output of its newest start shows the moment."""
    starts = run.text.count("(restarted)") + 1
    run.wait_for(rf"(?s)(work dir:.*?){{{starts}}}{moment}", 400)
    os.kill(run.rank(1), signal.SIGKILL)
    run.wait_for(rf"(?s)(\(restarted\).*?){{{starts}}}", 400)


@slow
def test_devices_restart_too_and_a_cause_is_the_last_line(shapes, tmp_path) -> None:
    run = train(shapes, tmp_path / "w", *RUN, "--devices", "2", "--max-restarts", "1")
    try:
        run.wait_for(BEGUN)
        os.kill(run.rank(1), signal.SIGKILL)
        run.wait_for(r"\(restarted\)(?s:.*)" + STEP_3)
        os.kill(run.rank(1), signal.SIGKILL)
        assert run.status(60) == 137
        assert run.text.strip().splitlines()[-1] == "error: rank 1 was ended by SIGKILL (too little memory?)"
    finally:
        run.end()
