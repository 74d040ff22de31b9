"""Faults at an exact moment of a training, from within its process: at a step, in a validation, at a system call.

A fault is three words, such as ``step 7 KILL``, ``validation 1 TERM``, ``fsync 3 KILL`` or ``replace 2 ENOSPC``:

* the moment: ``step`` (before anything is saved after it), ``validation`` (within it), ``validated`` (after it), or a
  function of ``os`` that writers call (``fsync``, ``replace``, ``symlink``, ``remove``), before it does anything;
* which one, counted from 1 since the training began;
* what happens: a signal to the process itself, an error number (functions of ``os`` alone), or ``REMOVE``, which
  deletes the work folder.

A process of its own gets it in the environment variable ``FCOS_TEST_FAULT``, and the scores of its validations in
``FCOS_TEST_SCORES``, by epoch.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections import Counter

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

FUNCTIONS = ("fsync", "replace", "symlink", "remove")


class Fault(Hook):
    """Causes one fault.

    Args:
        text: the three words; empty: nothing happens.
        scores: of the validations, by epoch; they stand for those that the model has reached.
    """

    priority = "VERY_HIGH"

    def __init__(self, text: str = "", scores: tuple[float, ...] = ()) -> None:
        self.moment, which, self.action = text.split() if text else ("", "0", "")
        self.which, self.scores, self.counts = int(which), scores, Counter()
        self.folder = ""

    def before_run(self, runner):
        self.folder = runner.work_dir
        if self.moment in FUNCTIONS:
            upstream = getattr(os, self.moment)

            def function(*args, **kwargs):
                self.reach(self.moment)
                return upstream(*args, **kwargs)

            setattr(os, self.moment, function)

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
        if moment != self.moment or (count or self.counts[moment]) != self.which:
            return
        if self.action == "REMOVE":
            shutil.rmtree(self.folder, ignore_errors=True)  # a writer may be at work in it
        elif hasattr(errno, self.action):
            number = getattr(errno, self.action)
            raise OSError(number, os.strerror(number))
        else:
            os.kill(os.getpid(), getattr(signal, f"SIG{self.action}"))


@HOOKS.register_module()
class FaultFromEnvironment(Fault):
    """The fault that the environment of the process asks for."""

    def __init__(self) -> None:
        scores = os.environ.get("FCOS_TEST_SCORES", "")
        super().__init__(os.environ.get("FCOS_TEST_FAULT", ""), tuple(map(float, scores.split())))
