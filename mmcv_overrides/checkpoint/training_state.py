"""The form of the training state in a checkpoint (weights, optimizer, schedulers), before anything is built for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

MAX_COUNT = 2**53  # steps; beyond it a double has no whole numbers


def is_count(value: Any) -> bool:
    """Whether it is a possible number of epochs or iterations."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT


def form_fault(checkpoint: Mapping[str, Any]) -> str | None:
    """What is not as ``state_dict()`` of a model, an optimizer and a scheduler returns it; None if all is as it is."""
    weights = checkpoint.get("state_dict")
    if weights is not None and not _has_tensors(weights):
        return "state_dict has no weights"
    faults = [*_optimizer_faults(checkpoint.get("optimizer")), *_scheduler_faults(checkpoint.get("param_schedulers"))]
    return faults[0] if faults else None


def _has_tensors(weights: Any) -> bool:
    return isinstance(weights, Mapping) and any(isinstance(value, Tensor) for value in weights.values())


def _optimizer_faults(state: Any) -> Iterator[str]:
    """Of one optimizer, or of several by name."""
    if not isinstance(state, Mapping):
        return  # absent, or refused as such
    several = "param_groups" not in state and "state" not in state and state
    for name, one in state.items() if several else [("", state)]:
        if several and not (isinstance(one, Mapping) and "param_groups" in one):
            continue  # what else a wrapper keeps
        place = f"optimizer.{name}" if name else "optimizer"
        groups, values = one.get("param_groups"), one.get("state")
        if not isinstance(groups, (list, tuple)) or not all(_is_group(group) for group in groups):
            yield f"{place}.param_groups is no list of groups of parameters"
        elif not isinstance(values, Mapping) or not all(isinstance(value, Mapping) for value in values.values()):
            yield f"{place}.state is no dict of the state of each parameter"


def _is_group(group: Any) -> bool:
    return isinstance(group, Mapping) and isinstance(group.get("params"), (list, tuple))


def _scheduler_faults(states: Any) -> Iterator[str]:
    """A list of states, or such lists by the name of the optimizer."""
    if states is None:
        return
    lists = list(states.values()) if isinstance(states, Mapping) else [states]
    if not all(
        isinstance(one, (list, tuple)) and all(isinstance(state, Mapping) and state for state in one) for one in lists
    ):
        yield "param_schedulers is no list of states"
