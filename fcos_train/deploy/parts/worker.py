"""Calls functions in another Python: that of a vendor's toolkit, whose packages exclude this project's."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from fcos_train.deploy.parts import worker_host
from mmcv_overrides.errors import UserError

LAST_LINES = 5
COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
STOP_SECONDS = 10.0


class WorkerFailed(UserError):
    """A call failed in the other Python.

    Attributes:
        kind: class of the exception there; "" if the process ended.
        text: its message, or how the process ended.
    """

    def __init__(self, message: str, text: str, kind: str = "") -> None:
        super().__init__(message)
        self.text, self.kind = text, kind


class Worker:
    """A process of another Python that keeps its state between calls. Also a context manager.

    What it prints goes to a log, of which the last lines are part of an error's message. It ends when it is closed or
    forgotten, and by itself when this process ends.

    Args:
        python: the interpreter.
        script: file with a table ``CALLS``: name -> function(arrays, **values) -> (values, arrays). The other Python
            runs it by its path; it may import what is installed there, nothing of this project.
        what: name of the toolkit, for messages.
        log: file for what it prints; None: a file without a name.
        environment: further environment variables.

    Raises:
        UserError: there is no such interpreter.
        WorkerFailed: the script could not be loaded.
    """

    def __init__(
        self,
        python: str | Path,
        script: str | Path,
        what: str,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.what = what
        self._lines: list[str] = []
        self._log: IO[bytes] = open(log, "w+b") if log else tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                # -I: neither this project's PYTHONPATH nor packages of the user's home
                [str(python), "-I", worker_host.__file__, str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=_environment(Path(python), environment or {}),
            )
        except OSError as error:
            self._log.close()
            raise UserError(f"{what}: {python} cannot be started: {error.strerror}") from error
        self._finalizer = weakref.finalize(self, _stop, self._process, self._log)
        self._answer(None)

    def call(
        self, name: str, arrays: Sequence[np.ndarray] = (), timeout: float | None = None, **values: Any
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        """Call a function of the script.

        Args:
            name: in its table. arrays, values: its arguments; values are sent as JSON.
            timeout: in seconds; the process is ended when it passes.

        Raises:
            WorkerFailed: the function raised an exception, the process ended, or the time is over.
        """
        if not self._finalizer.alive:
            raise WorkerFailed(f"{self.what}: the process was ended before", "ended before")
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(worker_host.packed({"call": name, "values": values}, arrays))
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        return self._answer(timeout)

    def close(self) -> None:
        """End the process."""
        self._finalizer()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self, timeout: float | None) -> tuple[dict[str, Any], list[np.ndarray]]:
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            frame = worker_host.read_frame(lambda size: self._read(size, deadline))
        except TimeoutError:
            text = f"no answer within {timeout:g} s"
            message = f"{self.what}: {text}{self._last_lines()}"
            self._process.kill()
            self.close()
            raise WorkerFailed(message, text) from None
        if frame is None:
            raise self._ended()
        head, arrays = frame
        if "error" in head:
            raise WorkerFailed(f"{self.what}: {head['error']}", head["error"], head["kind"])
        return head["values"], arrays

    def _read(self, size: int, deadline: float | None) -> bytes:
        """``size`` bytes of the answer; fewer if the process ends."""
        assert self._process.stdout is not None
        pipe, parts = self._process.stdout.fileno(), bytearray()
        while len(parts) < size:
            if deadline is not None and not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError
            part = os.read(pipe, min(size - len(parts), 1 << 20))
            if not part:
                break
            parts += part
        return bytes(parts)

    def _ended(self) -> WorkerFailed:
        """The error for a process that ended without an answer."""
        status = self._process.wait()
        text = f"its process was ended by signal {-status}" if status < 0 else f"its process ended with status {status}"
        message = f"{self.what}: {text}{self._last_lines()}"
        self.close()
        return WorkerFailed(message, text)

    def printed(self) -> list[str]:
        """The lines that the process has printed, without colours; also of one that ended."""
        if not self._log.closed:
            size = os.fstat(self._log.fileno()).st_size
            text = os.pread(self._log.fileno(), size, 0).decode(
                errors="replace"
            )  # the process writes at the same place
            self._lines = [line for line in COLOURS.sub("", text).splitlines() if line.strip()]
        return self._lines

    def _last_lines(self) -> str:
        """The last lines of the log, as they end a message."""
        return "".join(f"\n{line[:300]}" for line in self.printed()[-LAST_LINES:])


def _environment(python: Path, further: Mapping[str, str]) -> dict[str, str]:
    """The environment without what belongs to this Python; programs of the other one are found first."""
    kept = {name: os.environ[name] for name in os.environ if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    path = os.pathsep.join(filter(None, [str(python.absolute().parent), kept.get("PATH", "")]))
    return {**kept, "PATH": path, **further}


def _stop(process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    """Close the pipes, at which the process ends; end it if it does not."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # unsent rest of a request
                pipe.close()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    log.close()
