"""Resuming schedulers: progress comes from the checkpoint, settings from the config."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_PROGRESS = {"optimizer", "last_step", "verbose"}


@dataclass(frozen=True)
class ScheduleChange:
    """How the schedulers of the config differ from those of the checkpoint.

    Attributes:
        settings: what differed, as ``CosineAnnealingLR.T_max 12 -> 24``.
        missed: (scheduler, number of steps it did not take because its old ``end`` had passed).
    """

    settings: tuple[str, ...] = ()
    missed: tuple[tuple[Any, int], ...] = ()

    def catch_up(self) -> None:
        """Take the missed steps; call it after the states are loaded."""
        for scheduler, steps in self.missed:
            for _ in range(steps):
                scheduler.step()


def keep_config(built: Any, saved: Any) -> ScheduleChange:
    """Put the settings of the schedulers just built into the states to be loaded, in place.

    mmengine stores settings with the state and prefers them: a run that stopped early would continue with an ``end`` in
    the past and never change its learning rate again, whatever the config says.

    Args:
        built: list of mmengine schedulers, or dict of such lists; anything else is ignored.
        saved: ``param_schedulers`` of a checkpoint, of the same form.
    """
    changes, missed = [], []
    for scheduler, state in _pairs(built, saved):
        old_end = state.get("end")
        for name in _settings(scheduler) & state.keys() & vars(scheduler).keys():
            old, new = state[name], vars(scheduler)[name]
            if old != new:
                changes.append(f"{type(scheduler).__name__}.{name} {old} -> {new}")
                state[name] = new
        steps = _steps_after(old_end, state)
        if steps:
            state["_global_step"] -= steps
            missed.append((scheduler, steps))
    return ScheduleChange(tuple(sorted(changes)), tuple(missed))


def _steps_after(old_end: Any, state: dict) -> int:
    """Number of steps after the old end that are within the new one."""
    if not isinstance(old_end, int) or state["end"] <= old_end or "_global_step" not in state:
        return 0
    return max(state["_global_step"] - old_end + 1, 0)


def _pairs(built: Any, saved: Any) -> Iterator[tuple[Any, dict]]:
    if isinstance(built, dict) and isinstance(saved, dict):
        for name in built.keys() & saved.keys():
            yield from _pairs(built[name], saved[name])
    elif isinstance(built, list) and isinstance(saved, list) and len(built) == len(saved):
        # another number of schedulers is another schedule; mmengine pairs as many as there are
        yield from (
            (b, s) for b, s in zip(built, saved, strict=True) if hasattr(b, "state_dict") and isinstance(s, dict)
        )


def _settings(scheduler: Any) -> set[str]:
    """Names of the constructor arguments of a scheduler and its base classes, except its progress."""
    classes = (c for c in type(scheduler).__mro__ if "__init__" in vars(c) and c is not object)
    signatures = [inspect.signature(vars(c)["__init__"]) for c in classes]
    return {name for s in signatures for name in s.parameters} - _PROGRESS
