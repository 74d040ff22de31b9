"""Signals that end a training in good order: it finishes its step, saves and leaves; a second signal ends it at once.

While a training runs, SIGINT, SIGTERM, SIGHUP and SIGUSR1 only leave a note here, which the loop reads after each step
(:mod:`mmcv_overrides.stopping`). Before the first step there is nothing to save, and a signal ends the program. A
thread listens as well (``signal.set_wakeup_fd``), because Python calls no handler while the main thread is inside a C
function, such as a collective operation that waits for another rank.

Signals that are ignored when a program starts (``nohup``, jobs in the background) stay ignored.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name))
NOTES = "FCOS_STOPPED_RANKS"  # environment variable that an agent sets: the folder for :func:`note`
SAVE_SIGNALS = ("SIGUSR1",)  # with which a scheduler asks for a checkpoint: done as asked is success
# Signals within this time are one: a service manager signals a launcher and its ranks, and the launcher passes it on.
REPEATED_S = 1.0
LEAVE_S = 10  # outside of the steps a program that has been told to stop has this long
_PR_SET_PDEATHSIG = 1  # prctl(2)


class Stopped(SystemExit):
    """A signal has ended a training. A program that does not catch it ends with status ``code`` and no traceback.

    Args:
        number: of the signal. code: exit status. together: all ranks have agreed to stop.
    """

    def __init__(self, number: int, code: int, together: bool = False) -> None:
        super().__init__(code)
        self.signal, self.together = signal.Signals(number), together


class Interrupted(Stopped, KeyboardInterrupt):
    """The same for Ctrl-C, for programs that expect a KeyboardInterrupt."""


def stopped(number: int, saved: bool, together: bool = False) -> Stopped:
    """The exception to raise: status 0 where a scheduler asked for a checkpoint and got it, else 128 + n."""
    code = 0 if saved and signal.Signals(number).name in SAVE_SIGNALS else 128 + number
    return (Interrupted if number == signal.SIGINT else Stopped)(number, code, together)


class _Listener:
    """Takes the signals of this process from :meth:`install` to :meth:`remove`."""

    def __init__(self) -> None:
        self.requested = 0  # number of the first signal
        self.deferred = self.leaving = False
        self.replaced: dict[int, Any] = {}

    def install(self) -> None:
        """Replace the handlers, except of signals that are ignored."""
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in STOPPING:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: of a C library
                self.replaced[number] = signal.signal(number, self._handle)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()

    def put_back(self) -> None:
        """Restore the handlers; all that a forked process has to do."""
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self.replaced.items():
            signal.signal(number, handler)

    def remove(self) -> None:
        """Restore the handlers and end the thread."""
        self.put_back()
        self._writer.send(b"\0")
        self._thread.join()
        self._reader.close()
        self._writer.close()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = self.requested or number
        if not (self.deferred or self.leaving):
            self.leaving = True
            raise stopped(number, saved=False)

    def _listen(self) -> None:
        first, free, told = 0.0, 0, False
        while True:
            ready, _, _ = select.select([self._reader], [], [], 1.0 if first else None)
            for number in self._reader.recv(64) if ready else b"":
                if number == 0:
                    return
                if number not in self.replaced:  # SIGCHLD and others reach the same socket
                    continue
                self.requested = self.requested or number
                if first and time.monotonic() - first > REPEATED_S and not self.leaving:
                    end_at_once(number)
                first = first or time.monotonic()
            if first and not ready:
                free = 0 if self.deferred else free + 1
                if free > LEAVE_S:
                    end_at_once(self.requested)
                if self.deferred and not told:
                    told = True
                    _say(f"{name_of(self.requested)}: stopping after this step; a second signal ends it at once")


_listener: _Listener | None = None


@contextmanager
def handled(done_is_success: bool = False) -> Iterator[None]:
    """Take the signals, in the main thread alone; a context within another one, or in another thread, does nothing.

    The handlers of before are put back at the end. A signal that came too late to stop anything is then delivered
    again, and so is one for which the program has a handler of its own.

    Args:
        done_is_success: forget a signal that came too late, in a program that ends here anyway.

    Raises:
        Stopped: a signal came, in a phase that is not :func:`deferred`.
    """
    global _listener
    if _listener is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    _listener = listener = _Listener()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(signal.SIGTERM)  # the ranks of an agent that is killed
    listener.install()
    try:
        yield
    finally:
        _listener = None
        listener.remove()
        number = listener.requested
        before = listener.replaced.get(number)
        own = callable(before) and before is not signal.default_int_handler
        late = number and not listener.leaving and not done_is_success
        if own or late:
            signal.raise_signal(number)


@contextmanager
def deferred() -> Iterator[None]:
    """While this lasts a signal leaves its note (:func:`requested`) and only a second one ends the process."""
    with handled():
        listener = _listener if threading.current_thread() is threading.main_thread() else None
        if listener is None or listener.deferred:
            yield
            return
        listener.deferred = True
        try:
            yield
        finally:
            listener.deferred = False


def requested() -> int:
    """Number of the signal that has asked this process to stop; 0 if none has."""
    return 0 if _listener is None else _listener.requested


def leave(number: int, saved: bool) -> Stopped:
    """The exception for ranks that have agreed to stop; from here on further signals are ignored."""
    if _listener is not None:
        _listener.leaving = True
    return stopped(number, saved, together=True)


def note(end: Stopped) -> None:
    """Leave signal and status for the agent that has started this rank, which does not get the exit codes of all."""
    if NOTES in os.environ:
        file = Path(os.environ[NOTES]) / f"{os.environ.get('RANK', '0')}.stopped"
        with suppress(OSError):
            file.write_text(f"{int(end.signal)} {end.code}")


def end_at_once(number: int) -> None:
    """End this process and all that it has started, without cleaning up."""
    _say(f"ended at once by {name_of(number)}")
    kill_descendants()
    os._exit(128 + number)


def name_of(number: int) -> str:
    """``SIGTERM`` and the like."""
    return signal.Signals(number).name


def _say(line: str) -> None:
    """Print a line, of several ranks the first alone. The main thread may hold the locks of the streams."""
    if os.environ.get("RANK", "0") == "0":
        with suppress(OSError):
            os.write(2, f"{line}\n".encode())


def end_with_parent(number: int) -> None:
    """Let the kernel send this process a signal when the thread that has started it ends (Linux)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)


def descendants(pid: int) -> Iterator[int]:
    """All processes that one has started, directly or not (Linux)."""
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for kid in map(int, file.read_text().split()):
                yield kid
                yield from descendants(kid)


def kill_descendants() -> None:
    """Kill all processes that this one has started, directly or not (Linux)."""
    for child in list(descendants(os.getpid())):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(child, signal.SIGKILL)


class QuietWorker:
    """``worker_init_fn`` of a loader: its processes leave the signals of a process group to the one that closes them.

    Args:
        then: the loader's own function.
    """

    def __init__(self, then: Callable[[int], None] | None) -> None:
        self.then = then
        self._with_parent = threading.current_thread() is threading.main_thread()  # another thread may end earlier

    def __call__(self, worker: int) -> None:
        """Called in the new process."""
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)
        if self._with_parent:
            end_with_parent(signal.SIGKILL)
        if self.then is not None:
            self.then(worker)


def _in_forked_process() -> None:
    """A forked process has no thread that listens, and must not write into its parent's socket."""
    global _listener
    listener, _listener = _listener, None
    if listener is not None:
        with suppress(ValueError):
            listener.put_back()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_process)
