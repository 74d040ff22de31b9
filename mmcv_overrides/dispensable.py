"""Files that a training can do without: logs, curves, lists of detections. One that cannot be written is one warning.

What a training cannot do without (checkpoints, the record of the run) ends it with one line, see
:func:`mmcv_overrides.files.written`.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any

from mmengine.logging import print_log

from mmcv_overrides.errors import UserError, system_error
from mmcv_overrides.printable import printable

RETRY_S = 60.0  # from one attempt to the next of a backend that has to be opened anew
_BACKEND_CALLS = ("add_config", "add_graph", "add_image", "add_scalar", "add_scalars", "close")


class Dispensable:
    """The state of one such file: whether it can be written at present.

    Attributes:
        what: its name in the warning, such as "the curves".
        fault: why it cannot be written; None if it can.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.fault: str | None = None

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Write within the block. The first failure is a warning, and so is the first success after it."""
        try:
            yield
        except (OSError, UserError) as error:
            known, self.fault = self.fault, str(error if isinstance(error, UserError) else system_error(error))
            if known is None:
                self._say(f"{self.what} cannot be written ({printable(self.fault)}); training goes on without")
            return
        if self.fault is not None:
            self.fault = None
            self._say(f"{self.what} can be written again")

    @staticmethod
    def _say(text: str) -> None:
        print_log(text, "current", logging.WARNING)


class LogFile(logging.FileHandler):
    """A log file that a full disk, or the loss of its folder, does not end a training for.

    Args:
        like: the handler that it replaces.
    """

    def __init__(self, like: logging.FileHandler) -> None:
        super().__init__(like.baseFilename, "a", like.encoding, delay=True)
        self.setFormatter(like.formatter)
        self.setLevel(like.level)
        for kept in like.filters:
            self.addFilter(kept)
        self._state = Dispensable(f"the log {printable(self.baseFilename)}")
        with self._state.attempt():  # not at the first line: mmengine writes how weights were initialised to the stream
            self.stream = self._open()

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; after a failure, and where somebody has removed the file, it is opened anew."""
        with self._state.attempt():
            try:
                if self.stream is not None and not os.path.exists(self.baseFilename):
                    self._drop()
                if self.stream is None:
                    self.stream = self._open()
                self.stream.write(self.format(record) + self.terminator)
                self.stream.flush()
            except OSError:
                self._drop()
                raise

    def _drop(self) -> None:
        """Close the file without the lines that it could not take."""
        stream, self.stream = self.stream, None  # type: ignore[assignment]  # as FileHandler.close does
        if stream is not None:
            with suppress(OSError):
                stream.close()


def guard_log(logger: logging.Logger) -> None:
    """Replace the log files of a logger by :class:`LogFile`; output that cannot be written is left out quietly."""
    for place, handler in enumerate(logger.handlers):
        if type(handler) is logging.FileHandler:
            logger.handlers[place] = LogFile(handler)
            handler.close()
        elif isinstance(handler, logging.StreamHandler):
            handler.handleError = _quiet(handler.handleError)  # type: ignore[method-assign, assignment]


def _quiet(upstream: Callable[[logging.LogRecord], None]) -> Callable[[logging.LogRecord], None]:
    def handle(record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            upstream(record)

    return handle


def guard_curves(visualizer: Any) -> None:
    """Let the backends of mmengine's visualizer fail without ending the training."""
    for name, backend in getattr(visualizer, "_vis_backends", {}).items():
        state = _Backend(backend, f"the curves of {name}")
        for call in _BACKEND_CALLS:
            if hasattr(backend, call):
                setattr(backend, call, state.guarded(getattr(backend, call)))
    if threading.excepthook is not _thread_ended:
        threading.excepthook = _thread_ended


class _Backend:
    def __init__(self, backend: Any, what: str) -> None:
        self._backend, self._state, self._again, self._inside = backend, Dispensable(what), 0.0, False

    def guarded(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if self._inside:  # a call of one that is guarded already
                return call(*args, **kwargs)
            if self._state.fault is not None and time.monotonic() < self._again:
                return None
            with self._state.attempt():
                self._inside = True
                try:
                    return call(*args, **kwargs)
                except OSError:
                    self._again = time.monotonic() + RETRY_S
                    self._backend._env_initialized = False  # its writer does not recover: the next call opens another
                    raise
                finally:
                    self._inside = False

        return guarded


_upstream_thread_ended = threading.excepthook


def _thread_ended(ended: threading.ExceptHookArgs) -> None:
    """Without the traceback of TensorBoard's writer thread, whose error the next call raises."""
    if type(ended.thread).__name__ != "_AsyncWriterThread" or not isinstance(ended.exc_value, OSError):
        _upstream_thread_ended(ended)
