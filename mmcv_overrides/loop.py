"""Epoch loop that resumes at any iteration, with data that do not depend on workers, ranks or interruptions.

Every sample is drawn with random generators seeded from (seed, epoch, index). So a run has the same images with any
number of loader workers, 2 ranks with batches of B have those of 1 rank with batches of 2 B, and a run resumed in
mid-epoch continues with exactly the remaining batches.
"""

from __future__ import annotations

import logging
import random
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, SupportsIndex

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from mmcv_overrides import signals
from mmcv_overrides.fetching import DataFault, Fetching
from mmcv_overrides.optimizer import StepOptimWrapper
from mmcv_overrides.printable import printable
from mmcv_overrides.seams import Override
from mmcv_overrides.stalls import place, stalls_named
from mmcv_overrides.stopping import StopPoints


class SeededBatch(list):
    """Indices of one batch; iterating over them seeds the random generators for each sample.

    A loader fetches ``[dataset[index] for index in batch]``. So the data set stays the user's own object with plain
    indices, in the main process and in workers, and hooks can change it directly.

    Args:
        indices: of the samples.
        seeds: one for each sample.
    """

    def __init__(self, indices: Iterable, seeds: Iterable[int]) -> None:
        super().__init__(indices)
        self.seeds = list(seeds)

    def __iter__(self) -> Iterator:
        # A worker process draws nothing else, so its states need not be restored.
        outside = None if get_worker_info() else (random.getstate(), np.random.get_state(), torch.get_rng_state())
        try:
            for index, seed in zip(super().__iter__(), self.seeds, strict=True):
                random.seed(seed)
                np.random.seed(seed % 2**32)
                torch.default_generator.manual_seed(seed)
                yield index
        finally:
            if outside is not None:
                random.setstate(outside[0])
                np.random.set_state(outside[1])
                torch.set_rng_state(outside[2])

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple:  # without iterating
        return SeededBatch, (self[:], self.seeds)


def draw_seed(seed: int, epoch: int, index: Any) -> int:
    """Seed of one sample in one epoch: well mixed, and the same in every process (unlike ``hash``).

    Args:
        index: what the sampler yields: a number, a tuple of them (video, frame), or anything with a fixed text.
    """
    return int(np.random.SeedSequence([seed, epoch, *_numbers(index)]).generate_state(1, np.uint64)[0] >> 1)


def _numbers(index: Any) -> list[int]:
    if isinstance(index, (tuple, list)):
        return [number for part in index for number in _numbers(part)]
    try:
        return [int(index) % 2**64]  # negative indices count from the end
    except (TypeError, ValueError):
        return [zlib.crc32(str(index).encode())]


class SeededBatches:
    """The batches of one epoch from position ``start`` on, as :class:`SeededBatch`.

    All attributes but its own are those of the batch sampler.
    """

    _OWN = ("batch_sampler", "seed", "epoch", "start")

    def __init__(self, batch_sampler: Any, seed: int) -> None:
        self.batch_sampler, self.seed = batch_sampler, seed
        self.epoch = self.start = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in self._OWN:
            raise AttributeError(name)
        return getattr(self.batch_sampler, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._OWN:
            object.__setattr__(self, name, value)
        else:
            setattr(self.batch_sampler, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.batch_sampler, name)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[SeededBatch]:
        for position, batch in enumerate(self.batch_sampler):
            if position >= self.start:
                yield SeededBatch(batch, [draw_seed(self.seed, self.epoch, i) for i in batch])


def seed_batches(loader: DataLoader, seed: int) -> None:
    """Wrap the batch sampler of a loader of indexed data in :class:`SeededBatches`.

    torch refuses to replace the batch sampler of an existing loader, whose ``batch_size``, ``sampler`` and
    ``drop_last`` could then be wrong; a wrapper around the loader's own sampler keeps them right.
    """
    batches = loader.batch_sampler
    if batches is None or isinstance(loader.dataset, IterableDataset):
        return
    if isinstance(batches, SeededBatches):  # a loader that another loop has used
        batches = batches.batch_sampler
    vars(loader)["batch_sampler"] = SeededBatches(batches, seed)


class ResumableEpochLoop(EpochBasedTrainLoop):
    """Upstream's loop, plus: resume in mid-epoch, stop after ``max_iters`` or at a signal, name ranks that are behind.

    Args:
        runner: mmengine's Runner.
        dataloader: a loader or its config.
        max_epochs: number of epochs.
        val_begin: first epoch to validate after.
        val_interval: epochs from one validation to the next.
        dynamic_intervals: (first epoch, interval) pairs, as in upstream's loop.
        max_iters: total number of iterations after which to stop, even in mid-epoch; the last state is validated and
            saved nevertheless. Default: ``max_epochs`` decides.
        max_bad_samples: different samples that may be replaced by others, where the pipeline can do that.
    """

    _iter: int
    _epoch: int
    _max_iters: int
    _max_epochs: int

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict,
        max_epochs: int,
        val_begin: int = 1,
        val_interval: int = 1,
        dynamic_intervals: list[tuple[int, int]] | None = None,
        max_iters: int | None = None,
        max_bad_samples: int = 0,
    ) -> None:
        super().__init__(runner, dataloader, max_epochs, val_begin, val_interval, dynamic_intervals)
        seed_batches(self.dataloader, runner.seed or 0)
        self._fetching = Fetching(self.dataloader, max_bad_samples)
        self._lost: list[str] = []
        if max_iters is not None:
            self._max_iters = int(max_iters)
            self._max_epochs = -(-self._max_iters // len(self.dataloader))

    @property
    def done(self) -> bool:
        """Whether the training has ended."""
        return self._iter >= self._max_iters or self._epoch >= self._max_epochs or self.stop_training

    def run(self) -> torch.nn.Module:
        """Train to the end or to a signal.

        Raises:
            Stalled: another rank has failed, or does not move; the message names it.
        """
        self.stop_points = StopPoints(self.runner)
        with stalls_named(), signals.deferred():
            model = self._run()
            self.stop_points.close()
            return model

    def _run(self) -> torch.nn.Module:
        try:
            model = self._train()
        except DataFault as fault:
            # Before the first step there is nothing to save.
            if self._iter:
                self.runner.call_hook("before_failure")
            raise fault.error() from None
        if self._fetching.left_out:
            print_log(
                f"{len(self._fetching.left_out)} samples cannot be loaded; others took their place:"
                + "".join(f"\n  {times} x {printable(one)}" for one, times in self._fetching.left_out.items()),
                "current",
                logging.WARNING,
            )
        self._fetching.close()
        return model

    def _train(self) -> torch.nn.Module:
        self.runner.call_hook("before_train")
        if self._epoch_open():
            self._finish_epoch()
            self._validate()
        elif self.done:
            print_log(f"nothing to do: {self._iter} of {self._max_iters} iterations are already done", "current")
        while not self.done:
            self.run_epoch()
            self.stop_points.now()
            self._validate()
        self.runner.call_hook("after_train")
        return self.runner.model

    def _validates_now(self) -> bool:
        return self._epoch >= self.val_begin and self._epoch % self.val_interval == 0

    def validation_due(self) -> bool:
        """Whether a validation belongs after the iterations that are done, for a loop that is about to run."""
        epochs, rest = divmod(self._iter, len(self.dataloader))
        if not self._iter or self._epoch_open():
            return False
        if self.done:
            return True
        self._decide_current_val_interval()
        return not rest and epochs == self._epoch and self._validates_now()

    def _epoch_open(self) -> bool:
        """Whether only the end of an epoch is missing: the state was saved by iteration, at its last one."""
        return self._iter == (self._epoch + 1) * len(self.dataloader)

    def _finish_epoch(self) -> None:
        """What follows the last iteration of an epoch: schedulers that step by epoch, for one."""
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1

    def _validate(self) -> None:
        self._decide_current_val_interval()
        if self.runner.val_loop is not None and (self.done or self._validates_now()):
            with place("a validation"):
                self.runner.val_loop.run()
            self.stop_points.now()

    def run_epoch(self) -> None:
        """One epoch, or the rest of it after a resume."""
        length = len(self.dataloader)
        start = self._start_position(length)
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        self._after_hooks_changed_the_model()
        batches = self.dataloader.batch_sampler
        if isinstance(batches, SeededBatches):
            batches.epoch, batches.start = self._epoch, start
        for idx, data_batch in enumerate(self._fetching, start):
            self.run_iter(idx, data_batch)
            if self._iter >= self._max_iters:
                break
            if idx + 1 < length:  # an epoch is finished before a signal stops the training
                self.stop_points.after_step()
        if idx + 1 < length:
            self.runner.call_hook("after_partial_epoch")
        else:
            self._finish_epoch()

    def _after_hooks_changed_the_model(self) -> None:
        """Weights may have been written through ``.data``, and parameters unfrozen."""
        wrapper = self.runner.optim_wrapper
        if not isinstance(wrapper, StepOptimWrapper):
            return
        wrapper.sync_masters()
        held = set(wrapper.model_params)
        lost = [name for name, p in self.runner.model.named_parameters() if p.requires_grad and p not in held]
        if lost and lost != self._lost:
            self._lost = lost
            print_log(
                f"{len(lost)} parameters require gradients but are not in the optimizer and will not be trained "
                f"({', '.join(lost[:3])}{' and more' if len(lost) > 3 else ''}): with paramwise_cfg it has only the "
                "parameters that were not frozen when it was built. Unfreeze them in the config, or drop paramwise_cfg",
                "current",
                logging.WARNING,
            )

    def _start_position(self, length: int) -> int:
        start = self._iter - self._epoch * length
        if 0 <= start < length:
            return start
        print_log(
            f"resumed at iteration {self._iter}, epoch {self._epoch}, but an epoch now has {length} iterations "
            "(another batch size, number of ranks or data set): starting that epoch from the beginning",
            "current",
            logging.WARNING,
        )
        # The iteration counter continues; epochs have the new length from here on.
        self._epoch = min(self._iter // length, self._max_epochs - 1)
        self._iter = self._epoch * length
        return 0


OVERRIDES = [
    Override(
        "LOOPS:EpochBasedTrainLoop",
        ResumableEpochLoop,
        "exact resume in mid-epoch, data independent of workers and ranks, max_iters",
    ),
]
