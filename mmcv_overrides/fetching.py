"""Batches for all ranks together: a fault of the data on one rank stops all of them before the same step.

A rank that cannot load its batch must not leave the others waiting in the middle of a step. So each rank fetches a
batch one step ahead and hands a note of it (failed or not, samples left out) to a reduction over a gloo group of its
own, which runs beside the step on the batch before: nobody waits for it, and no accelerator is asked.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from mmcv_overrides.errors import UserError
from mmcv_overrides.parallel import host_group
from mmcv_overrides.seams import Override

_left_out: list[str] = []  # in the process that loads: since the last batch
_KEY = "left_out"
_LAST_WORDS_S = 2.0  # for a process that is ending
_END = StopIteration()
_Fetched = tuple[Any, list[str], Exception | None]  # batch, notes, fault


def _taken() -> list[str]:
    notes = _left_out[:]
    _left_out.clear()
    return notes


def leave_out(what: str) -> None:
    """Note, where a sample is loaded, that another one takes its place; ``what`` names it and its fault."""
    _left_out.append(what)


class Noting:
    """A collate function that puts into its batch, a dict, the notes of the samples that were left out for it."""

    def __init__(self, collate: Callable[[Any], dict]) -> None:
        self.collate = collate

    def __call__(self, samples: Any) -> dict:
        """The batch; only if there are notes, it has a key more."""
        batch = self.collate(samples)
        if _left_out:
            batch[_KEY] = _taken()
        return batch


class Fetching:
    """The batches of a training, on all ranks.

    Args:
        loader: of the training. allowed: different samples that may be left out on all ranks together.

    Attributes:
        left_out: what all ranks have left out, each with the number of times that another sample took its place.
    """

    def __init__(self, loader: DataLoader, allowed: int = 0) -> None:
        self.loader, self.allowed = loader, allowed
        self.left_out: Counter[str] = Counter()
        if allowed and not isinstance(loader.collate_fn, Noting):
            loader.collate_fn = Noting(loader.collate_fn)
        self._group = host_group()

    def __iter__(self) -> Iterator[Any]:
        """The batches of an epoch.

        Raises:
            DataFault: the next batch cannot be loaded on some rank, or too many samples were left out; on all ranks
                after the same number of batches.
        """
        batches = iter(self.loader)
        coming = _fetch(batches)
        pending = self._begin(coming)
        while True:
            self._agree(coming, pending)
            batch, _, fault = coming
            if fault is _END:
                return
            if self._group is None:  # nobody to tell: the next one is fetched after the step
                yield batch
            coming = _fetch(batches)
            pending = self._begin(coming)
            if self._group is None:
                continue
            try:
                yield batch
            except GeneratorExit:  # the training ends in mid-epoch, on all ranks alike
                if pending[0] is not None:
                    pending[0].wait()
                raise

    def close(self) -> None:
        """Leave the group, after a run that has not failed."""
        if self._group is not None:
            dist.destroy_process_group(self._group)
            self._group = None

    def _begin(self, coming: _Fetched) -> tuple[Any, torch.Tensor]:
        """Start to tell the other ranks how many failed, and how many samples were left out."""
        note = torch.tensor([isinstance(coming[2], Exception) and coming[2] is not _END, len(coming[1])]).long()
        work = None if self._group is None else dist.all_reduce(note, group=self._group, async_op=True)
        return work, note

    def _agree(self, coming: _Fetched, pending: tuple[Any, torch.Tensor]) -> None:
        """Wait for what the other ranks have told, and stop if any of them has a fault."""
        work, note = pending
        if work is not None:
            work.wait()
        failed, left_out = note.tolist()
        if left_out:
            self.left_out.update(found for notes in self._gathered(coming[1]) for found in notes)
        if failed:
            fault = coming[2] if coming[2] is not _END else None
            said = next(text for text in self._gathered("" if fault is None else str(fault) or repr(fault)) if text)
            raise DataFault(fault, said)
        if len(self.left_out) > self.allowed:
            names = "; ".join(self.left_out)
            raise DataFault(None, f"{len(self.left_out)} samples cannot be loaded, more than {self.allowed}: {names}")

    def _gathered(self, value: Any) -> list[Any]:
        if self._group is None:
            return [value]
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, value, group=self._group)
        return found


class DataFault(Exception):
    """Data could not be loaded. ``cause``: the exception of this rank; None if it was another rank's."""

    def __init__(self, cause: Exception | None, said: str) -> None:
        super().__init__(said)
        self.cause, self.said = cause, said

    def error(self) -> Exception:
        """What the training ends with: the fault of this rank, or what another one said."""
        return self.cause if self.cause is not None else UserError(self.said)


def _fetch(batches: Iterator[Any]) -> _Fetched:
    try:
        batch = next(batches)
    except StopIteration:
        return None, [], _END
    except Exception as fault:  # of a transform, a file, a worker process: the caller decides
        return None, _taken(), _of_dead_worker(batches, fault)
    return batch, batch.pop(_KEY, []) if isinstance(batch, dict) else [], None


def _of_dead_worker(batches: Any, fault: Exception) -> Exception:
    """The fault; where it is only a connection that a loader process has left behind, what became of the process."""
    if not isinstance(fault, (EOFError, OSError)):
        return fault
    for process in getattr(batches, "_workers", ()):
        process.join(_LAST_WORDS_S)
        if process.exitcode:
            how = f"is killed by signal: {signal.strsignal(-process.exitcode)}" if process.exitcode < 0 else ""
            return RuntimeError(f"DataLoader worker (pid {process.pid}) {how or 'exited unexpectedly'}")
    return fault


def watch_at_fetches() -> None:
    """Replaces torch's handler of SIGCHLD, by none: its loader looks after its processes while it waits for a batch."""


OVERRIDES = [
    Override(
        "torch.utils.data._utils.signal_handling:_set_SIGCHLD_handler",
        watch_at_fetches,
        "when a loader process dies, torch's handler raises anywhere: within an optimizer step, or while saving",
    ),
]
