"""Progress bars (rich's): whether one is shown, and bars over loops.

A bar needs a terminal. In a file or a pipe nothing is shown, and the output is the same, byte for byte, as without this
module. ``--progress`` decides, else the environment variable ``FCOS_TRAIN_PROGRESS``: ``bar``, ``lines`` (never a bar)
or ``auto``: a bar on a terminal that can move its cursor, unless ``CI`` is set. With ``NO_COLOR`` bars have no colours.
rich is imported when a bar is shown, not before.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from threading import Timer
from typing import TYPE_CHECKING, TextIO, TypeVar

from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

MODES = ("auto", "bar", "lines")
VARIABLE = "FCOS_TRAIN_PROGRESS"
DELAY = 1.0  # seconds; what takes less time has no bar
RANKS = ("RANK", "SLURM_PROCID")
Item = TypeVar("Item")

_chosen: str | None = None
_busy = False  # a bar is shown; another one within it is not


def choose(mode: str | None) -> None:
    """Take the value of ``--progress``; None: as the environment says.

    Raises:
        UserError: the environment variable has another value than :data:`MODES`.
    """
    global _chosen
    _chosen = mode
    _mode()


def _mode() -> str:
    mode = _chosen or os.environ.get(VARIABLE) or "auto"
    if mode not in MODES:
        raise UserError(f"{VARIABLE}={printable(mode)}: choose from {', '.join(MODES)}")
    return mode


def shows(stream: TextIO) -> bool:
    """Whether a bar may be drawn on ``stream``; only the first rank draws.

    Raises:
        UserError: see :func:`choose`.
    """
    mode = _mode()
    if mode == "lines" or any(os.environ.get(name, "0") != "0" for name in RANKS):
        return False
    if mode == "bar":
        return True
    in_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    return stream.isatty() and not in_ci and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def console(stream: TextIO) -> Console:
    """rich's console on ``stream``, for which :func:`shows` is true."""
    from rich.console import Console

    # "bar" stands for a terminal that does not say that it is one, such as that of an editor.
    forced = True if _mode() == "bar" else None
    return Console(file=stream, force_terminal=forced, force_interactive=forced, highlight=False)


@contextmanager
def occupied() -> Iterator[bool]:
    """Reserve the terminal for a bar. Yields whether it was free; within another bar none is shown."""
    global _busy
    if _busy:
        yield False
        return
    _busy = True
    try:
        yield True
    finally:
        _busy = False


def track(work: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Iterate over ``work`` with a bar on stderr; it appears after :data:`DELAY` and leaves nothing behind.

    Args:
        what: is done, in a few words: "reading images".
        total: number of items where ``work`` has no length; None: unknown.
    """
    total = len(work) if total is None and isinstance(work, Sized) else total
    with working(what, total) as advance:
        for item in work:
            yield item
            advance()


@contextmanager
def working(what: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """A bar on stderr while something is done; see :func:`track`.

    Args:
        total: number of steps; None: unknown, the bar only moves.

    Yields:
        a function to call after each step.
    """
    with occupied() as free:
        if not free or not shows(sys.stderr) or _piped(sys.stdout):
            yield _nothing
            return
        from rich import progress as bars

        columns = [bars.TextColumn("{task.description}"), bars.BarColumn()]
        columns += [bars.MofNCompleteColumn(), bars.TimeRemainingColumn()] if total else [bars.TimeElapsedColumn()]
        bar = bars.Progress(*columns, console=console(sys.stderr), transient=True, redirect_stdout=sys.stdout.isatty())
        task = bar.add_task(printable(what), total=total)
        began = time.monotonic()

        def advance() -> None:
            """One step more; it starts the bar, so that no line that is being printed is cut in two."""
            if time.monotonic() - began >= DELAY:
                bar.start()
            bar.advance(task)

        delay = Timer(DELAY, bar.start)  # where there are no steps
        delay.daemon = True
        try:
            if total is None:
                delay.start()
            yield advance
        finally:
            delay.cancel()
            if total is None:
                delay.join()
            bar.stop()


def _nothing() -> None:
    """The step of a bar that is not shown."""


def _piped(stream: TextIO) -> bool:
    """Whether another program reads ``stream``: what it prints may be on the same terminal as the bar."""
    try:
        return stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError, AttributeError):
        return False
