"""Merged parameter groups while training, mmengine's own groups in checkpoints.

With ``paramwise_cfg`` mmengine makes one group per parameter, which turns one fused update into a hundred. Here groups
of equal settings are one. Checkpoints have mmengine's groups nevertheless, in the states of the optimizer and of its
schedulers, so that a training begun with either can be continued with the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from torch import Tensor

from mmcv_overrides.seams import Override

# What a scheduler keeps for each parameter group.
PER_GROUP = ("base_values", "_last_value", "min_values")


def merge_groups(groups: Sequence[dict[str, Any]], defaults: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Merge groups of equal settings, in order of first appearance.

    Args:
        groups: parameter groups. defaults: settings of groups that do not have their own.
    """
    merged: dict[tuple, dict[str, Any]] = {}
    for group in groups:
        settings = {**(defaults or {}), **group}
        key = tuple(sorted((k, repr(v)) for k, v in settings.items() if k != "params"))
        merged.setdefault(key, {**group, "params": []})["params"] += group["params"]
    return list(merged.values())


@dataclass(frozen=True)
class UpstreamGroups:
    """The parameter groups that mmengine's own constructor makes for a model.

    Attributes:
        groups: the parameters of each.
        names: of all parameters of the model, trained or not.
    """

    groups: list[list[Tensor]] = field(default_factory=list)
    names: dict[Tensor, str] = field(default_factory=dict)

    def order(self, current: list[list[Tensor]]) -> list[tuple[int, list[Tensor]]]:
        """mmengine's groups of the parameters of an optimizer, each with the index of the group that it is now in.

        Args:
            current: parameters of the optimizer's groups. Those that a hook has added keep their group, at the end.
        """
        owner = {param: place for place, params in enumerate(current) for param in params}
        known = {param for params in self.groups for param in params}
        present = [[param for param in params if param in owner] for params in self.groups]
        added = [(place, [p for p in params if p not in known]) for place, params in enumerate(current)]
        return [(owner[params[0]], params) for params in present if params] + [pair for pair in added if pair[1]]


def spread(state: dict, sources: list[int], count: int) -> dict:
    """The state of a scheduler with mmengine's groups.

    Args:
        state: of the scheduler, with a value for each of ``count`` groups, and perhaps one of the base learning rate.
        sources: for each of mmengine's groups, the index of the group that it is in.
    """
    return {
        key: [value[place] for place in sources] + value[count:] if _per_group(key, value, count) else value
        for key, value in state.items()
    }


def gather(state: dict, sources: list[int], count: int) -> dict:
    """The reverse of :func:`spread`: a state with mmengine's groups, for a scheduler of ``count`` groups."""
    first = [sources.index(place) for place in range(count)]
    return {
        key: [value[place] for place in first] + value[len(sources) :]
        if _per_group(key, value, len(sources))
        else value
        for key, value in state.items()
    }


def _per_group(key: str, value: Any, count: int) -> bool:
    return key in PER_GROUP and isinstance(value, list) and len(value) in (count, count + 1)


_state_dict, _load_state_dict = _ParamScheduler.state_dict, _ParamScheduler.load_state_dict


def _sources(scheduler: _ParamScheduler) -> tuple[list[int], int]:
    """(for each of mmengine's groups the index of the optimizer's group, number of the optimizer's groups)."""
    order = getattr(scheduler.optimizer, "upstream_order", None)
    places = [place for place, _ in order()] if order is not None else []
    count = len(scheduler.optimizer.optimizer.param_groups) if order is not None else 0
    return places, count


def scheduler_state(self: _ParamScheduler) -> dict:
    """Replaces ``_ParamScheduler.state_dict``: one value for each of mmengine's groups."""
    state, (sources, count) = _state_dict(self), _sources(self)
    return spread(state, sources, count) if len(sources) != count else state


def load_scheduler_state(self: _ParamScheduler, state_dict: dict) -> None:
    """Replaces ``_ParamScheduler.load_state_dict``; states with merged groups, of earlier releases, are loaded too."""
    sources, count = _sources(self)
    if len(sources) != count:
        state_dict = gather(state_dict, sources, count)
    _load_state_dict(self, state_dict)


OVERRIDES = [
    Override(
        "mmengine.optim.scheduler.param_scheduler:_ParamScheduler.state_dict",
        scheduler_state,
        "checkpoints with the groups of mmengine, although training has merged ones",
    ),
    Override(
        "mmengine.optim.scheduler.param_scheduler:_ParamScheduler.load_state_dict",
        load_scheduler_state,
        "checkpoints with the groups of mmengine, although training has merged ones",
    ),
]
