"""A training as a child: its log, and its end together with everything that it has started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

from mmcv_overrides.signals import STOPPING, Stopped, descendants, end_with_parent, stopped

USER_ERROR = 2
GRACE_S = 40  # torchrun needs up to 30 s to stop its ranks


def stop_on_signals() -> None:
    """Raise :class:`Stopped` in the main thread for signals that stop a training, unless they are ignored (nohup)."""
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    _then(lambda *_: None)
    raise stopped(number, saved=False)


def _then(handler: Callable[[int, FrameType | None], object]) -> None:
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def run_supervised(command: Sequence[str], log: Path | None, keep: int | None = None) -> int:
    """Run a command in a process group of its own, without input.

    Args:
        log: file for its output; None: the terminal. With ``FCOS_FOLLOW=1``, or on a terminal, both.
        keep: descriptor that the command inherits, of a lock that lasts as long as it.

    Returns:
        its status; 128 + n if a signal has ended it.

    Raises:
        Stopped: after the command and all that it has started have ended; with the command's own status, if it is that
            of a training that has saved its state, or failed to.
    """
    sys.stdout.flush()
    kept = () if keep is None else (keep,)
    file = None if log is None else log.open("wb")
    copied = file is not None and _follows()
    target = subprocess.PIPE if copied else file
    errors = None if file is None else subprocess.STDOUT
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=target,
        stderr=errors,
        pass_fds=kept,
        process_group=0,
        preexec_fn=lambda: end_with_parent(signal.SIGTERM),  # when this launcher is killed the training saves and ends
    )
    copier = None
    if copied:
        assert child.stdout is not None and file is not None
        copier = threading.Thread(target=_copy, args=(child.stdout, file), daemon=True)
        copier.start()
    try:
        status = child.wait()
    except Stopped as stop:
        stop.code = _end(child, stop.signal)
        raise
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGTERM)  # what a crashed training has left behind
        if copier is not None:
            copier.join(timeout=GRACE_S)
        if file is not None:
            file.close()
    return status if status >= 0 else 128 - status


def _follows() -> bool:
    wanted = os.environ.get("FCOS_FOLLOW", "")
    return wanted == "1" or (sys.stdout.isatty() and wanted != "0")


def _copy(source: IO[bytes], file: IO[bytes]) -> None:
    for line in source:
        file.write(line)
        file.flush()
        with suppress(BrokenPipeError):
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()


def _end(child: subprocess.Popen, number: int) -> int:
    """Pass a signal on, and those that follow it; kill what is left of the family after a grace.

    Ranks of torchrun are in sessions of their own: its process group is not enough.

    Returns:
        exit status after the signal: the child's, if it is that of a good order.
    """
    family = [child.pid, *descendants(child.pid)]
    print("stopping the training", file=sys.stderr, flush=True)
    _then(lambda again, _: child.send_signal(again))
    child.send_signal(number)
    deadline = time.monotonic() + GRACE_S
    while any(map(_lives, family)) and time.monotonic() < deadline:
        child.poll()
        time.sleep(0.1)
    for pid in family:
        if _lives(pid):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
    status = child.wait()
    return status if status in (0, USER_ERROR) else 128 + number


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"
