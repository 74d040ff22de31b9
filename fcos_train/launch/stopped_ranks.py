"""Signals that stop the ranks of an agent: which of them it takes, and how the ranks have ended then.

The agent of torchrun passes a signal on to its ranks, waits up to 30 s for them, and then knows neither their exit
codes nor whether they have saved. So a rank that a signal has stopped leaves a note
(:func:`mmcv_overrides.signals.note`).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from torch.distributed.elastic.multiprocessing.api import SignalException

from mmcv_overrides.signals import NOTES, STOPPING, Stopped, stopped

AGENT_S = 30  # that the agent waits for its ranks


def names() -> str:
    """The signals that the agent is to take, separated by commas; not those that are ignored, as under ``nohup``."""
    taken = [number for number in STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    return ",".join(signal.Signals(number).name for number in taken)


@contextmanager
def passed_on(folder: Path) -> Iterator[None]:
    """Let the agent take the signals, also those that older versions of torch leave out; put the handlers back.

    Args:
        folder: for the notes of the ranks.
    """
    os.environ[NOTES] = str(folder)
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in STOPPING}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, _stop)
    try:
        yield
    finally:
        del os.environ[NOTES]
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise SignalException(f"stopped by signal {number}", signal.Signals(number))


def outcome(folder: Path, ranks: int, number: int | None = None) -> Stopped | None:
    """How ranks have ended that a signal has stopped; None if none was.

    Args:
        ranks: on this machine. number: of the signal that the agent itself got.
    """
    notes = [tuple(map(int, file.read_text().split())) for file in folder.glob("*.stopped")]
    if number is None:
        return stopped(notes[0][0], saved=notes[0][1] == 0, together=True) if notes else None
    saved = len(notes) >= ranks and all(note[1] == 0 for note in notes)
    return stopped(number, saved, together=bool(notes))
