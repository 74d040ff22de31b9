"""Faults at an exact moment of a training, from within its process: at a step, in a validation, at a system call.

A fault is three words, such as ``step 7 KILL``, ``validation 1 TERM``, ``fsync 3 KILL`` or ``replace 2 ENOSPC``:

* the moment: ``step`` (before anything is saved after it), ``validation`` (within it), ``validated`` (after it), or a
  function of ``os`` that writers call (``fsync``, ``replace``, ``symlink``, ``remove``), before it does anything;
* which one, counted from 1 since the training began;
* what happens: a signal to the process itself, an error number (functions of ``os`` alone), ``REMOVE``, which deletes
  the work folder, ``FILL``, which fills its disk, or ``FREE``, which makes room again.

Several are separated by semicolons.

A process of its own gets it in the environment variable ``FCOS_TEST_FAULT``, and the scores of its validations in
``FCOS_TEST_SCORES``, by epoch.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections import Counter
from contextlib import suppress
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

FUNCTIONS = ("fsync", "replace", "symlink", "remove")


class Fault(Hook):
    """Causes faults.

    Args:
        text: see the module; empty: nothing happens.
        scores: of the validations, by epoch; they stand for those that the model has reached.
    """

    priority = "VERY_HIGH"

    def __init__(self, text: str = "", scores: tuple[float, ...] = ()) -> None:
        self.faults = [tuple(one.split()) for one in text.split(";") if one.strip()]
        self.scores, self.counts = scores, Counter()
        self.folder = Path()

    def before_run(self, runner):
        self.folder = Path(runner.work_dir)
        for name in {moment for moment, _, _ in self.faults if moment in FUNCTIONS}:
            setattr(os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name, upstream):
        def function(*args, **kwargs):
            self.reach(name)
            return upstream(*args, **kwargs)

        return function

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.reach("step", runner.iter + 1)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if batch_idx == 0:
            self.reach("validation")

    def after_val_epoch(self, runner, metrics=None):
        if self.scores:
            metrics[next(key for key in metrics if key.endswith("mAP"))] = self.scores[runner.epoch - 1]

    def after_val(self, runner):
        self.reach("validated")

    def reach(self, moment: str, count: int | None = None) -> None:
        """Count a moment; cause the fault at its time."""
        self.counts[moment] += 1
        count = count or self.counts[moment]
        for _, _, action in [fault for fault in self.faults if fault[:2] == (moment, str(count))]:
            self._cause(action)

    def _cause(self, action: str) -> None:
        filler = self.folder.parent / "filler"
        if action == "REMOVE":
            shutil.rmtree(self.folder, ignore_errors=True)  # a writer may be at work in it
        elif action == "FREE":
            filler.unlink(missing_ok=True)
        elif action == "FILL":
            _fill(filler)
        elif hasattr(errno, action):
            number = getattr(errno, action)
            raise OSError(number, os.strerror(number))
        else:
            os.kill(os.getpid(), getattr(signal, f"SIG{action}"))


def _fill(filler: Path) -> None:
    """Write to a file until its disk is full, to the last block."""
    with suppress(OSError), open(filler, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass


@HOOKS.register_module()
class FaultFromEnvironment(Fault):
    """The fault that the environment of the process asks for."""

    def __init__(self) -> None:
        scores = os.environ.get("FCOS_TEST_SCORES", "")
        super().__init__(os.environ.get("FCOS_TEST_FAULT", ""), tuple(map(float, scores.split())))
