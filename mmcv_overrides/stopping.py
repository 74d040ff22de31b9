"""Where a training stops when a signal asks for it: after a step, at the next batch of a validation, between epochs.

All ranks stop at the same step, whichever of them got the signal. Each hands its note to a reduction over a gloo group
of its own after every step, and reads the outcome one step later: no rank waits for another one, and the host never
waits for an accelerator.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from mmengine.hooks import EMAHook
from mmengine.runner import IterBasedTrainLoop, Runner, ValLoop
from mmengine.runner.loops import _parse_losses
from torch.utils.data import DataLoader

from mmcv_overrides import signals
from mmcv_overrides.parallel import host_group
from mmcv_overrides.seams import Override

DAEMONS_S = 2.0  # that daemons have to end at the end of the program
_build_dataloader = Runner.build_dataloader


@dataclass
class Stop:
    """What the hook method ``before_stop(runner, stop)`` gets, in which checkpoints are written.

    Attributes:
        signal: its number. saved: to be set by the hook: the checkpoint that has the state of now.
    """

    signal: int
    saved: str | None = None


class StopPoints:
    """The places of one run at which its ranks may stop. Every rank calls each method as often as the others."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self._asked = 0
        self._pending: tuple[dist.Work, torch.Tensor] | None = None
        self._key = f"mmcv_overrides/stop/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        self._group = host_group()

    def after_step(self) -> None:
        """Stop here if a rank was asked to before its last step; not between the batches of one optimizer step.

        Raises:
            Stopped: the state is saved.
        """
        if self._group is None:
            self._asked = signals.requested()
        else:
            self._read()
            note = torch.tensor([signals.requested()])
            self._pending = dist.all_reduce(note, dist.ReduceOp.MAX, self._group, async_op=True), note
        if self._asked and _whole_step(self.runner):
            self._stop()

    def now(self) -> None:
        """Stop here if any rank has been asked to.

        Raises:
            Stopped: the state is saved.
        """
        self._decide()
        if self._asked:
            self._stop()

    def in_validation(self) -> bool:
        """Whether to leave the validation at this batch, of which ranks may have different numbers.

        So nothing is decided here: it ends early on the ranks that know, and :meth:`validation_ended` decides for all.
        """
        if self._group is None:
            return bool(signals.requested())
        store = dist.distributed_c10d._get_default_store()
        with suppress(RuntimeError):  # the agent that serves the store may have been killed: then all ranks are told
            if signals.requested():
                store.set(self._key, "1")
            elif store.check([self._key]):
                return True
        return bool(signals.requested())

    def validation_ended(self) -> bool:
        """Whether any rank has been asked to stop, so that this validation does not count."""
        self._decide()
        return bool(self._asked)

    def close(self) -> None:
        """Leave the group, after the last step of a run that has not failed."""
        if self._group is not None:
            self._read()
            dist.destroy_process_group(self._group)
            self._group = None

    def _read(self) -> None:
        if self._pending is not None:
            work, note = self._pending
            self._pending = None
            work.wait()
            self._asked = self._asked or int(note)

    def _decide(self) -> None:
        self._read()
        note = torch.tensor([signals.requested()])
        if self._group is not None:
            dist.all_reduce(note, dist.ReduceOp.MAX, self._group)
        self._asked = self._asked or int(note)

    def _stop(self) -> None:
        runner, stop = self.runner, Stop(self._asked)
        runner.call_hook("before_stop", stop=stop)
        with suppress(OSError):
            runner.visualizer.close()
        name = signals.name_of(stop.signal)
        place = f"stopped by {name} after iteration {runner.iter} of {runner.max_iters}"
        runner.logger.info(
            f"{place}: saved {stop.saved}; resume continues from there"
            if stop.saved
            else f"{place}: this state is not saved; resume continues from the newest checkpoint"
        )
        raise signals.leave(stop.signal, saved=stop.saved is not None)


def _whole_step(runner: Runner) -> bool:
    """Whether no gradients wait to be accumulated; they are in no checkpoint."""
    wrapper = runner.optim_wrapper
    counts = getattr(wrapper, "_accumulative_counts", 1)
    return counts <= 1 or wrapper._inner_count % counts == 0


class StoppableIterLoop(IterBasedTrainLoop):
    """Upstream's loop, which stops in good order when a signal asks for it."""

    def run(self) -> Any:
        """Train to the end or to a signal."""
        self.stop_points = StopPoints(self.runner)
        with signals.deferred():
            model = super().run()
            self.stop_points.close()
            return model

    def run_iter(self, data_batch: Any) -> None:
        """One iteration; the training may stop after it."""
        super().run_iter(data_batch)
        if self._iter < self._max_iters:
            self.stop_points.after_step()


class StoppableValLoop(ValLoop):
    """Upstream's loop, which a signal ends at the next batch, so that a training can save in time."""

    def run(self) -> dict:
        """Validate.

        Raises:
            Stopped: within a training that was asked to stop. The validation that was missed is not in the checkpoint.
        """
        found = getattr(self.runner._train_loop, "stop_points", None)
        points = found if isinstance(found, StopPoints) else None  # a training by another loop is not stopped here
        self.runner.call_hook("before_val")
        self.runner.call_hook("before_val_epoch")
        self.runner.model.eval()
        self.val_loss.clear()
        for idx, data_batch in enumerate(self.dataloader):
            self.run_iter(idx, data_batch)
            if points is not None and points.in_validation():
                break
        if points is not None and points.validation_ended():
            self._abandon()
            points.now()
        metrics = self.evaluator.evaluate(len(self.dataloader.dataset))
        if self.val_loss:
            metrics.update(_parse_losses(self.val_loss, "val"))
        self.runner.call_hook("after_val_epoch", metrics=metrics)
        self.runner.call_hook("after_val")
        return metrics

    def _abandon(self) -> None:
        """Put back what the hooks have changed for the validation, without a result."""
        for metric in self.evaluator.metrics:
            metric.results.clear()
        for hook in self.runner.hooks:
            if isinstance(hook, EMAHook):
                hook.after_val_epoch(self.runner)
        self.runner.call_hook("after_val")


def build_dataloader(
    dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
) -> DataLoader:
    """Replaces ``Runner.build_dataloader``: the loader's processes ignore the signals that stop a training."""
    loader = _build_dataloader(dataloader, seed, diff_rank_seed)
    if loader.num_workers > 0 and not isinstance(loader.worker_init_fn, signals.QuietWorker):
        loader.worker_init_fn = signals.QuietWorker(loader.worker_init_fn)
    return loader


def _end_daemons() -> None:
    """At the end of the program, which would wait for ever for a loader process that hangs and ignores SIGTERM."""
    daemons = [process for process in multiprocessing.active_children() if process.daemon]
    for process in daemons:
        process.terminate()
    end = time.monotonic() + DAEMONS_S
    for process in daemons:
        process.join(max(0.0, end - time.monotonic()))
        process.kill()


atexit.register(_end_daemons)

OVERRIDES = [
    Override("LOOPS:IterBasedTrainLoop", StoppableIterLoop, "a signal ends a training after a step, with a checkpoint"),
    Override(
        "mmengine.runner.runner:IterBasedTrainLoop",
        StoppableIterLoop,
        "train_cfg=dict(by_epoch=False) passes the registry by",
    ),
    Override("LOOPS:ValLoop", StoppableValLoop, "a signal ends a validation at the next batch"),
    Override("mmengine.runner.runner:ValLoop", StoppableValLoop, "val_cfg=dict() passes the registry by"),
    Override(
        "mmengine.runner.runner:Runner.build_dataloader",
        staticmethod(build_dataloader),
        "Ctrl-C reaches loader processes too, which then print tracebacks",
    ),
]
