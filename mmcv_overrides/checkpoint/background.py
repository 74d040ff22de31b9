"""Checkpoints written beside the training: it waits while their content is copied, and not for the disk.

One thread writes one file at a time, and what belongs to it (``latest.pth``, deletion of older files) follows in the
same thread, in the same order as without one. What is on the disk after a kill is therefore the same.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakSet

import torch
from mmengine.runner import Runner

from mmcv_overrides.checkpoint.host_copy import HostCopy
from mmcv_overrides.checkpoint.plain import plain
from mmcv_overrides.checkpoint.writing import check_finite, prepare, write
from mmcv_overrides.errors import UserError

Job = Callable[[], object]
_upstream_train = Runner.train
_capturing: tuple[BackgroundWriter, Job] | None = None
_writers: WeakSet[BackgroundWriter] = WeakSet()


class BackgroundWriter:
    """Runs jobs in one thread, in their order. After one that failed none runs until its error has been raised."""

    def __init__(self) -> None:
        self._copy = HostCopy()
        self._threads: ThreadPoolExecutor | None = None
        self._jobs: list[Future] = []
        self._error: Exception | None = None
        _writers.add(self)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that hold the copy of a checkpoint."""
        return self._copy.nbytes

    def after(self, job: Job) -> None:
        """Run ``job`` once those before it are done; nothing waits."""
        self._threads = self._threads or ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._jobs = [one for one in self._jobs if not one.done()] + [self._threads.submit(self._run, job)]

    def _run(self, job: Job) -> None:
        if self._error is None:
            try:
                job()
            except Exception as error:
                self._error = error

    def wait(self) -> None:
        """Wait for all jobs.

        Raises:
            UserError: one of them could not write its file.
        """
        for job in self._jobs:
            job.result()
        self._jobs = []
        self.raise_error()

    def raise_error(self) -> None:
        """Raise, once, the error of a job that has failed; nothing waits."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Wait for all jobs, and end the thread.

        Raises:
            UserError: as :meth:`wait`.
        """
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=True)
        self.wait()

    @contextmanager
    def capturing(self, then: Job) -> Iterator[None]:
        """A checkpoint that is saved within the block is copied there, and written afterwards.

        Args:
            then: what follows the writing, unless it fails.
        """
        global _capturing
        _capturing = (self, then)
        try:
            yield
        finally:
            _capturing = None

    def save(self, state: Mapping, path: str | Path, then: Job) -> None:
        """As :func:`.writing.save`, which returns when the file is there; this returns when ``state`` is copied.

        A write that is in flight is waited for.

        Raises:
            NonFiniteWeights, UserError: as :func:`.writing.save`, for this file or for the one before.
        """
        self.wait()
        content = self._copy.take(plain(state))
        check_finite(content)
        place = prepare(content, path)

        def job() -> None:
            write(content, place)
            then()

        def again() -> None:
            try:
                job()
            except UserError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
                job()  # somebody has removed the folder meanwhile

        self.after(again)


def captured(state: Mapping, path: str | Path) -> bool:
    """Save in the background if that is asked for (:meth:`BackgroundWriter.capturing`); False otherwise."""
    if _capturing is None:
        return False
    writer, then = _capturing
    writer.save(state, path, then)
    return True


def is_capturing() -> bool:
    """Whether the content of a checkpoint is being copied; then nothing else needs to copy it."""
    return _capturing is not None


def wait_for_all() -> list[str]:
    """Wait for every writer of this process. Returns the errors that nobody has raised yet."""
    errors = []
    for writer in list(_writers):
        try:
            writer.close()
        except Exception as error:
            errors.append(str(error))
    return errors


def train(self: Runner) -> torch.nn.Module:
    """Replaces ``Runner.train``: the same, but a training that fails leaves no file half written either."""
    try:
        return _upstream_train(self)
    finally:
        for error in wait_for_all():
            self.logger.error(error)


atexit.register(wait_for_all)  # also where a rank ends without the interpreter's own farewell (os._exit)
