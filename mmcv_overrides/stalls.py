"""Names the rank that the others wait for, and what it does, when a training stalls or a machine is lost.

Each rank notes in the store of the process group what it does. A thread of each rank asks the store every few seconds:
it answers requests for this rank's Python stack, and ends the process when the store has been gone for longer than the
timeout of the process group. No question to the store waits without end (:mod:`.deadline`).
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import torch.distributed as dist
from mmengine.logging import print_log

from mmcv_overrides.deadline import answer_within
from mmcv_overrides.errors import Stalled, tell_torchrun

PHASES = ("before the forward pass", "in the forward pass", "in the backward pass")
BEAT_S = 2.0  # between two questions of a rank's thread, at most
GRACE_S = 10.0  # after the timeout, in which a rank may end by its own error
LOST = 1  # exit status
_NOTE, _FAILED, _STACK, _ASK = (f"mmcv_overrides/{word}" for word in ("progress/", "failed/", "stack/", "ask"))
# Words of errors of the libraries that connect the ranks; not all of these errors have a class of their own.
_OF_GROUP = ("gloo", "nccl", "hccl", "processgroup", "connection closed by peer", "connection reset by peer")


@dataclass(frozen=True)
class Place:
    """What a rank does.

    Attributes:
        step: number of the current one, from 1. order: within the step; from ``len(PHASES)`` on outside of it.
        text: of what is outside a step. waits: for rank 0.
    """

    step: int = 0
    order: int = len(PHASES)
    text: str = "the start"
    waits: bool = False

    def __str__(self) -> str:
        if self.order < len(PHASES):
            return f"step {self.step} {PHASES[self.order]}"
        return f"{self.text}, after step {self.step}" if self.step else self.text

    @property
    def progress(self) -> tuple[int, int]:
        """Sorts places that ranks pass one after the other."""
        return self.step, self.order

    def packed(self) -> str:
        """For the store."""
        return json.dumps([self.step, self.order, self.text, self.waits])


class Watch:
    """The notes of a process group, and the thread that answers the other ranks.

    Args:
        store: shared by all ranks. rank, world: number of this one, and of all.
        timeout: of the process group, s. where: address of the store, for messages.
    """

    def __init__(self, store: dist.Store, rank: int, world: int, timeout: float, where: str = "") -> None:
        # Connections of its own: a question that is not answered must not keep the training from its own ones.
        self._own, self._beats = _second(store), _second(store)
        self._notes = store
        self.rank, self.world, self.timeout, self.where = rank, world, timeout, where
        self.beat = min(BEAT_S, timeout / 4)
        self.place = Place()
        self._stopped = threading.Event()
        self._answered = False
        self._main = threading.main_thread().ident
        self._thread = threading.Thread(target=self._watch, name="watch of the ranks", daemon=True)

    def start(self) -> None:
        """Note the first place and start the thread."""
        self.note(self.place)
        self._thread.start()

    def stop(self) -> None:
        """End the thread, within a beat."""
        self._stopped.set()

    def note(self, place: Place) -> None:
        """Record what this rank does. A store that is gone is noticed by the thread, not here."""
        self.place = place
        with suppress(RuntimeError):
            self._notes.set(f"{_NOTE}{self.rank}", place.packed())

    def failed(self, error: BaseException) -> None:
        """Record that this rank ends with an error of its own, which the others then name."""
        text = (str(error).strip().splitlines() or [""])[0][:300]
        with suppress(TimeoutError, RuntimeError):
            answer_within(self.beat, lambda: self._own.set(f"{_FAILED}{self.rank}", f"{type(error).__name__}: {text}"))

    # What the thread does

    def _watch(self) -> None:
        answered = time.monotonic()
        while not self._stopped.wait(self.beat):
            try:
                answer_within(self.beat, self._answer)
                answered = time.monotonic()
            except (TimeoutError, RuntimeError):
                silent = time.monotonic() - answered
                if silent > self.timeout + GRACE_S and not self._stopped.is_set():
                    self._give_up(silent)

    def _answer(self) -> None:
        """Leave the stack of the main thread if a rank asks for it."""
        if self._beats.check([_ASK]) and not self._answered:
            frame = sys._current_frames().get(self._main or 0)
            self._beats.set(f"{_STACK}{self.rank}", "".join(traceback.format_stack(frame)))
            self._answered = True

    def _give_up(self, silent: float) -> None:
        frame = sys._current_frames().get(self._main or 0)
        text = f"{self._gone()} for {silent:.0f} s. This rank ends; it was at {self.place}"
        print("".join(traceback.format_stack(frame)), file=sys.stderr)
        tell_torchrun(text)
        print(f"error (rank {self.rank}): {text}", file=sys.stderr, flush=True)
        os._exit(LOST)

    def _gone(self) -> str:
        return (
            f"the first machine{f' ({self.where})' if self.where else ''}, which has the store of the process group, "
            "has not answered: it is lost, or the connection to it"
        )

    # What a rank does whose collective has failed

    def report(self, error: Exception) -> str:
        """What the ranks wait for, in one line; the stacks of those that answer go to the log of the first to ask.

        Args:
            error: of the collective.
        """
        stack = "".join(traceback.format_tb(error.__traceback__))
        try:
            return answer_within(4 * self.beat + 5, lambda: self._report(stack))
        except (TimeoutError, RuntimeError):
            return f"training stopped: {self._gone()}. This rank was at {self.place}"

    def _report(self, stack: str) -> str:
        store, ranks = self._own, range(self.world)
        self._answered = True
        store.set(f"{_STACK}{self.rank}", stack)
        first = store.add(f"{_ASK}/count", 1) == 1
        store.set(_ASK, "now")
        end = time.monotonic() + 2 * self.beat + 1
        while time.monotonic() < end and not store.check([f"{_STACK}{rank}" for rank in ranks]):
            time.sleep(0.05)
        stacks = {rank: store.get(f"{_STACK}{rank}").decode() for rank in ranks if store.check([f"{_STACK}{rank}"])}
        places = [Place(*json.loads(store.get(f"{_NOTE}{rank}"))) for rank in ranks]
        failed = {rank: store.get(f"{_FAILED}{rank}").decode() for rank in ranks if store.check([f"{_FAILED}{rank}"])}
        if first:
            for rank, lines in stacks.items():
                print_log(f"stack of rank {rank}:\n{lines}", "current", logging.ERROR)
        return describe(places, set(ranks) - set(stacks), failed, self.timeout)


def describe(places: list[Place], silent: set[int], failed: dict[int, str], timeout: float) -> str:
    """Which rank the others wait for.

    Args:
        places: of all ranks. silent: ranks that do not answer. failed: errors of ranks, by rank.
        timeout: of the process group, s.
    """
    if failed:
        told = "; ".join(f"rank {rank} failed at {places[rank]} ({text})" for rank, text in sorted(failed.items()))
        return f"training stopped: {told}"
    if silent:
        behind = sorted(silent)
    elif any(place.waits for place in places):
        behind = [rank for rank, place in enumerate(places) if not place.waits]
    else:
        ahead = max(place.progress for place in places)
        behind = [rank for rank, place in enumerate(places) if place.progress < ahead]
    others = [place for rank, place in enumerate(places) if rank not in behind]
    if not behind or not others:
        return f"training stopped after {timeout:g} s: all ranks are at {max(places, key=lambda at: at.progress)}"
    names = ", ".join(
        f"rank {rank} ({places[rank]}{'; it does not answer' if rank in silent else ''})" for rank in behind
    )
    return f"training stopped while waiting for {names}; the others are at {max(others, key=lambda at: at.progress)}"


def of_group(error: Exception) -> bool:
    """Whether an error comes from what connects the ranks, not from the work of this one."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in _OF_GROUP)


def _second(store: dist.Store) -> dist.Store:
    """Another connection to the store where torch can make one (since 2.6)."""
    clone = getattr(store, "clone", None)
    try:
        return store if clone is None else clone()
    except RuntimeError:  # a store of another kind than torchrun's
        return store


_watch: Watch | None = None


def watch(found: Watch | None) -> None:
    """Begin to watch the ranks; None ends it."""
    global _watch
    if _watch is not None:
        _watch.stop()
    _watch = found
    if found is not None:
        found.start()


def note_step(step: int, phase: int) -> None:
    """This rank is in a phase of a step (see :data:`PHASES`)."""
    if _watch is not None:
        _watch.note(Place(step, phase))


@contextmanager
def place(text: str) -> Iterator[None]:
    """Within it this rank does what ``text`` says, and then what it did before."""
    with _noted(text=text, order=len(PHASES)):
        yield


@contextmanager
def waiting_for_master() -> Iterator[None]:
    """Within it this rank waits for what rank 0 does."""
    with _noted(waits=True):
        yield


@contextmanager
def _noted(**changes: str | int | bool) -> Iterator[None]:
    found = _watch
    if found is None:
        yield
        return
    before = found.place
    found.note(replace(before, **changes))  # type: ignore[arg-type]
    yield
    found.note(before)  # not after an error: it would tell where the rank was before


@contextmanager
def stalls_named() -> Iterator[None]:
    """Turn the error of a collective into one that says which rank the others wait for.

    Raises:
        Stalled: a collective has failed.
    """
    try:
        yield
    except Exception as error:
        if _watch is None or isinstance(error, Stalled):
            raise
        if not isinstance(error, RuntimeError) or not of_group(error):
            _watch.failed(error)
            raise
        text = _watch.report(error)
        print_log(text, "current", logging.ERROR)
        raise Stalled(text) from error
