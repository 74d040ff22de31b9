"""Questions that must be answered in time, to parts that know no deadline themselves."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def answer_within(seconds: float, question: Callable[[], T]) -> T:
    """The result of ``question``, which runs in a thread of its own.

    torch's TCP store waits without end for a machine that was cut off or a process that was stopped, whatever timeout
    it has: the timeout is sent to the other side, which has to tell that it has passed. The thread of a question that
    is not answered stays until the connection ends, and does not keep the process alive.

    Raises:
        TimeoutError: there was no answer in time.
        Exception: what ``question`` raised.
    """
    outcome: list[tuple[T | None, BaseException | None]] = []

    def ask() -> None:
        try:
            outcome.append((question(), None))
        except BaseException as error:  # handed to the thread that asks
            outcome.append((None, error))

    thread = threading.Thread(target=ask, name="question", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise TimeoutError(f"no answer within {seconds:g} s")
    result, error = outcome[0]
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # None only where T includes it
