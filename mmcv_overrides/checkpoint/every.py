"""Checkpoints between those of the config: after a number of iterations, or after a time."""

from __future__ import annotations

import time

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmcv_overrides.checkpoint.hook import SafeCheckpointHook
from mmcv_overrides.errors import UserError

SHARE = 0.5  # of the time that is left, after which the ranks look at the clock again


@HOOKS.register_module()
class ExtraCheckpointHook(Hook):
    """Saves ``iter_N.pth`` through the checkpoint hook of the runner; the two newest are kept.

    All ranks must save after the same iteration. For a time rank 0 tells the others when to look at its clock next:
    half way to the end by the speed so far, so that the few looks of an interval get closer towards its end. A
    checkpoint of the config starts the interval again.

    Args:
        iterations: between two checkpoints. seconds: between two checkpoints. One of them is given.
    """

    priority = "VERY_LOW"

    def __init__(self, iterations: int | None = None, seconds: float | None = None) -> None:
        if (iterations is None) == (seconds is None):
            raise UserError("ExtraCheckpointHook: give either iterations or seconds")
        self.iterations, self.seconds = iterations, seconds
        self._began, self._first = 0.0, 0
        self._next_look = 0
        self._last: str | None = None

    def before_train(self, runner: Runner) -> None:
        """Start the clock."""
        self._restart(runner, runner.iter)

    def _restart(self, runner: Runner, iteration: int) -> None:
        self._began, self._first, self._last = time.monotonic(), iteration, _saver(runner).last_ckpt
        self._next_look = iteration + 1

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None, outputs: dict | None = None
    ) -> None:
        """Save if it is time, on all ranks."""
        done = runner.iter + 1
        hook = _saver(runner)
        if self._config_saves(hook, runner):
            return
        if self.iterations is not None:
            if done % self.iterations == 0:
                hook.save_between(runner)
            return
        if hook.last_ckpt != self._last:
            self._restart(runner, runner.iter)
        if done >= self._next_look and self._look(done):
            hook.save_between(runner)
            self._restart(runner, done)

    def _config_saves(self, hook: SafeCheckpointHook, runner: Runner) -> bool:
        """Whether the config saves a checkpoint after this iteration anyway."""
        if not hook.by_epoch:
            return self.every_n_train_iters(runner, hook.interval, hook.save_begin)
        length = len(runner.train_loop.dataloader)
        ends = (runner.iter + 1) == (runner.epoch + 1) * length
        return ends and self.every_n_epochs(runner, hook.interval, hook.save_begin)

    def _look(self, done: int) -> bool:
        """Rank 0 looks at its clock. Returns, on all ranks, whether the time has come."""
        outcome: list[int | None] = [None]
        if is_main_process():
            assert self.seconds is not None
            outcome = [next_look(done, done - self._first, time.monotonic() - self._began, self.seconds)]
        broadcast_object_list(outcome)
        if outcome[0] is None:
            return True
        self._next_look = outcome[0]
        return False


def next_look(done: int, steps: int, spent: float, seconds: float) -> int | None:
    """The iteration after which to look at the clock again; None when the time has come.

    It has come when it is over, or nearer than the end of the next iteration.

    Args:
        done: iterations so far. steps: of them in this interval. spent: seconds of this interval so far.
        seconds: of a whole interval.
    """
    left, pace = seconds - spent, spent / steps
    if left < pace / 2:
        return None
    return done + max(int(SHARE * left / pace), 1)


def _saver(runner: Runner) -> SafeCheckpointHook:
    found = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
    if not found or not isinstance(found[0], SafeCheckpointHook):
        raise UserError("checkpoints between those of the config need the hook CheckpointHook in default_hooks")
    return found[0]
