"""Three clocks (train, program, paused) and the FPS that follows from them.

FPS = samples of all ranks / training seconds. The first five iterations of every epoch, and of a resumed run, are
warm-up: neither their samples nor their seconds count. Evaluation and checkpoint writing are not training time. The
clocks are stored in checkpoints, so the total is right after a resume. A simulated device has no FPS.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import IterTimerHook
from mmengine.hooks.hook import DATA_BATCH
from mmengine.runner import Runner

from mmcv_overrides.device import current
from mmcv_overrides.seams import Override
from mmcv_overrides.text_log import FOR_SCRIPTS

WARMUP_ITERS = 5


@dataclass
class Clocks:
    """Seconds and samples so far.

    Attributes:
        train: seconds of training, warm-up excluded.
        data: seconds of ``train`` spent waiting for data.
        paused: seconds of evaluation and checkpoint writing.
        program: seconds of the whole program.
        samples: images of all ranks within ``train``.
    """

    train: float = 0.0
    data: float = 0.0
    paused: float = 0.0
    program: float = 0.0
    samples: int = 0
    _started: float = field(default_factory=time.perf_counter, repr=False)

    @property
    def fps(self) -> float:
        """Images/s over the whole run, all ranks; 0 during the first warm-up."""
        return self.samples / self.train if self.train else 0.0

    def state_dict(self) -> dict:
        """The clocks for a checkpoint."""
        state = asdict(self)
        state["program"] += time.perf_counter() - state.pop("_started")
        return state

    def load_state_dict(self, state: dict) -> None:
        """Continue from the clocks of a checkpoint."""
        for name in ("train", "data", "paused", "program", "samples"):
            setattr(self, name, state.get(name, getattr(self, name)))


CLOCKS = Clocks()


@contextmanager
def paused() -> Iterator[None]:
    """Time within this context (evaluation, checkpoint writing) does not count as training."""
    start = time.perf_counter()
    try:
        yield
    finally:
        CLOCKS.paused += time.perf_counter() - start


def batch_size(data_batch: Any) -> int:
    """Number of samples in a batch of the loader, of all its branches (semi-supervised); 0 for what has no samples."""
    if isinstance(data_batch, dict):
        inputs = data_batch.get("inputs", next(iter(data_batch.values()), None))
        return sum(map(batch_size, inputs.values())) if isinstance(inputs, dict) else batch_size(inputs)
    if isinstance(data_batch, (list, tuple)) and data_batch:
        # columns are lists, or images [B, 3, H, W] beside labels [B]; otherwise there is one entry for each sample
        dims = {part.dim() for part in data_batch if isinstance(part, torch.Tensor)}
        columns = isinstance(data_batch[0], (list, tuple)) or len(dims) > 1
        return len(data_batch[0]) if columns else len(data_batch)
    return len(data_batch) if hasattr(data_batch, "__len__") else 0


class ClockHook(IterTimerHook):
    """Updates the clocks and the message hub.

    The hub gets ``train/time`` and ``train/data_time`` (s), as from upstream, and the infos ``fps`` (the run so far)
    and ``fps_window`` (since the last log line), both in images/s over all ranks.
    """

    def __init__(self) -> None:
        super().__init__()
        self.done_in_epoch = 0
        self.window_s, self.window_samples = 0.0, 0
        self._mark, self._paused_at_mark = time.perf_counter(), 0.0
        self._data_ready = self._mark
        self._val_start = self._mark
        self._no_speed: str | None = None

    def _restart(self) -> None:
        self._mark, self._paused_at_mark = time.perf_counter(), CLOCKS.paused

    def before_train(self, runner: Runner) -> None:
        """Reset the clocks, except on resume."""
        super().before_train(runner)
        self._no_speed = current().speed_fault()  # asks the driver, therefore not in every iteration
        if not getattr(runner, "_resume", False):
            CLOCKS.load_state_dict(asdict(Clocks()))

    def before_train_epoch(self, runner: Runner) -> None:
        """Begin the warm-up of an epoch."""
        self.done_in_epoch = 0
        self.window_s, self.window_samples = 0.0, 0
        self._restart()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None) -> None:
        """Take the time at which the batch arrived."""
        self._data_ready = time.perf_counter()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: DATA_BATCH = None, outputs: dict | None = None
    ) -> None:
        """Add the iteration to the clocks; synchronize the device if a log line follows."""
        if self._log_line_follows(runner, batch_idx):
            current().synchronize()  # the end of a window: all launched work must be done
        pause = CLOCKS.paused - self._paused_at_mark
        now = time.perf_counter()
        spent = now - self._mark - pause
        waited = max(self._data_ready - self._mark - pause, 0.0)
        self._restart()
        hub = runner.message_hub
        hub.update_scalar("train/time", spent)
        hub.update_scalar("train/data_time", waited)
        self.time_sec_tot += spent
        remaining = runner.max_iters - runner.iter - 1
        hub.update_info("eta", self.time_sec_tot / (runner.iter - self.start_iter + 1) * remaining)
        samples = batch_size(data_batch) * get_world_size()
        self.window_s, self.window_samples = self.window_s + spent, self.window_samples + samples
        if self.done_in_epoch >= WARMUP_ITERS:
            CLOCKS.train, CLOCKS.data = CLOCKS.train + spent, CLOCKS.data + waited
            CLOCKS.samples += samples
        self.done_in_epoch += 1
        hub.update_info("fps", None if self._no_speed else CLOCKS.fps)
        if self._log_line_follows(runner, batch_idx):
            hub.update_info("fps_window", None if self._no_speed else self.window_samples / max(self.window_s, 1e-9))
            self.window_s, self.window_samples = 0.0, 0

    @staticmethod
    def _log_line_follows(runner: Runner, batch_idx: int) -> bool:
        from mmcv_overrides.text_log import log_line_follows

        return log_line_follows(runner, batch_idx)

    def _fps_line(self, runner: Runner, span: str) -> None:
        share = CLOCKS.data / CLOCKS.train if CLOCKS.train else 0.0
        no_speed = current().speed_fault()
        if no_speed:
            runner.logger.info(f"{span}: no FPS, {no_speed}", extra=FOR_SCRIPTS)
        elif CLOCKS.samples:
            runner.logger.info(
                f"{span}: {CLOCKS.samples} images in {CLOCKS.train:.1f} s of training "
                f"(data {share:.0%}), FPS: {CLOCKS.fps:.2f}",
                extra=FOR_SCRIPTS,
            )
            if share > 0.2:
                workers = getattr(runner.train_dataloader, "num_workers", 0)
                runner.logger.warning(
                    f"{share:.0%} of the training time is spent waiting for data: raise train_dataloader.num_workers "
                    f"(now {workers}) or use smaller images"
                )
        else:
            none = f"{span}: fewer than {WARMUP_ITERS + 1} iterations, all of them warm-up: no FPS"
            runner.logger.info(none, extra=FOR_SCRIPTS)

    def after_train_epoch(self, runner: Runner) -> None:
        """Log the FPS so far."""
        self._fps_line(runner, f"Epoch [{runner.epoch + 1}] done")

    def after_train(self, runner: Runner) -> None:
        """Log the FPS of the run."""
        self._fps_line(runner, "Training done")

    def before_val(self, runner: Runner) -> None:
        """Begin a pause."""
        self._val_start = time.perf_counter()

    def after_val(self, runner: Runner) -> None:
        """End the pause."""
        CLOCKS.paused += time.perf_counter() - self._val_start

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Store the clocks."""
        checkpoint["clocks"] = CLOCKS.state_dict()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Continue from the stored clocks on resume."""
        if getattr(runner, "_resume", False):
            CLOCKS.load_state_dict(checkpoint.get("clocks", {}))


OVERRIDES = [
    Override(
        "HOOKS:IterTimerHook",
        ClockHook,
        "FPS over all ranks, without evaluation and checkpoint time, and right after a resume",
    ),
]
