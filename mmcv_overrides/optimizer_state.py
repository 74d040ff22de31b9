"""Optimizer states of checkpoints, for an optimizer whose groups, frozen layers or execution flags may be others.

A state is matched to parameters by name where the checkpoint has names. Those of plain mmengine have none: their groups
and the order within them follow from the model. The same holds for earlier releases, which wrote merged groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from mmcv_overrides.errors import UserError
from mmcv_overrides.parameter_groups import UpstreamGroups

# How an optimizer computes, which the machine and the config of this run decide, not those of the checkpoint.
EXECUTION = ("fused", "foreach", "capturable", "differentiable")
# States with the shape of their parameter.
LIKE_PARAMETER = ("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum")
# Settings that only some optimizers have, to recognise the optimizer of a state that does not name it.
TELLING = {"dampening": "SGD", "betas": "Adam or AdamW", "alpha": "RMSprop", "lr_decay": "Adagrad", "rho": "Adadelta"}
TELLING |= {"etas": "Rprop"}


def refuse(reason: str) -> NoReturn:
    """Raise the error for a state that does not fit.

    Raises:
        UserError: always.
    """
    raise UserError(
        f"cannot resume the optimizer: {reason}. To start a new training from its weights use load_from",
        setting="load_from",
    )


def check_same_optimizer(saved: dict, optimizer: torch.optim.Optimizer, kind: str | None) -> None:
    """Refuse the state of another kind of optimizer.

    Args:
        saved: state dict of an optimizer. kind: the name of its class, if the checkpoint has it.

    Raises:
        UserError: it is of another class, or its groups lack settings that make up this one.
    """
    mine = type(optimizer).__name__
    if kind is not None:
        if _family(kind) != _family(mine):
            refuse(f"the checkpoint was written with {kind}, and this config has {mine}")
        return
    for group in saved["param_groups"]:
        lacks = [key for key in TELLING if key in optimizer.defaults and key not in group]
        more = [TELLING[key] for key in TELLING if key in group and key not in optimizer.defaults]
        if lacks or more:
            theirs = more[0] if more else f"another optimizer (no {', '.join(lacks)})"
            refuse(f"the checkpoint was written with {theirs}, and this config has {mine}")
        decoupled = [settings.get("decoupled_weight_decay") for settings in (group, optimizer.defaults)]
        if None not in decoupled and decoupled[0] != decoupled[1]:
            refuse(f"the checkpoint was written with {'AdamW' if decoupled[0] else 'Adam'}, and this config has {mine}")


def _family(kind: str) -> str:
    """The name of an optimizer without that of its implementation: ``NpuFusedSGD`` has the state of ``SGD``."""
    return kind.removeprefix("Npu").removeprefix("Fused")


def arranged(state: dict, current: list[list[Tensor]], order: list[tuple[int, list[Tensor]]]) -> dict:
    """A state of an optimizer with merged groups as mmengine has it.

    Args:
        state: state dict of an optimizer.
        current: parameters of its groups. order: see :meth:`.UpstreamGroups.order`.
    """
    number = {param: place for place, param in enumerate(p for params in current for p in params)}
    flat = [param for _, params in order for param in params]
    place = {param: index for index, param in enumerate(flat)}
    return {
        **state,
        "state": {place[p]: state["state"][number[p]] for p in flat if number[p] in state["state"]},
        "param_groups": [
            {**state["param_groups"][source], "params": [place[p] for p in params]} for source, params in order
        ],
    }


def fitting_state(
    saved: dict, groups: list[dict], names: list[str] | None, upstream: UpstreamGroups, order: list[list[Tensor]]
) -> tuple[dict, list[int | None]]:
    """A saved state with an entry for every parameter of the optimizer, and with the execution flags of this run.

    Args:
        saved: state dict of an optimizer.
        groups: ``param_groups`` of the optimizer that will load it, one for each list of ``order``.
        names: of the parameters of ``saved``, in its order, if the checkpoint has them.
        upstream: the names of the model's parameters.
        order: the model's parameters in each group.

    Returns:
        the state to load, and for each parameter its position among the saved ones, or None.

    Raises:
        UserError: parameters or groups of another model or config.
    """
    olds = saved["param_groups"]
    flat = [key for old in olds for key in old["params"]]
    wanted = [param for params in order for param in params]
    if names is not None and len(names) == len(flat) and upstream.names:
        return _fit(saved, groups, _keys_by_name(dict(zip(names, flat, strict=True)), wanted, upstream))
    if [len(old["params"]) for old in olds] == [len(params) for params in order]:
        keys = list(flat)
    elif len(olds) == len(order):
        keys = [
            key
            for old, params in zip(olds, order, strict=True)
            for key in _keys_of_trained(old["params"], params, saved["state"])
        ]
    else:
        refuse(
            f"the checkpoint has {len(olds)} parameter groups with {len(flat)} parameters where this config has "
            f"{len(order)} with {len(wanted)} (another paramwise_cfg, or are other layers frozen now?)"
        )
    _check_shapes(keys, wanted, saved["state"])
    return _fit(saved, groups, keys)


def _fit(saved: dict, groups: list[dict], keys: Sequence[Any]) -> tuple[dict, list[int | None]]:
    """The result of :func:`fitting_state`, given the key of each parameter."""
    owner = {key: old for old in saved["param_groups"] for key in old["params"]}
    fitted, rest = [], iter(keys)
    for group in groups:
        mine = [next(rest) for _ in group["params"]]
        old: dict = next((owner[key] for key in mine if key in owner), {})
        flags = {name: group[name] for name in EXECUTION if name in group}
        fitted.append({**_settings(group), **old, **flags, "params": mine})
    flat = [key for old in saved["param_groups"] for key in old["params"]]
    first = {key: place for place, key in reversed(list(enumerate(flat)))}
    return {**saved, "param_groups": fitted}, [first.get(key) for key in keys]


def _settings(group: dict) -> dict:
    return {name: value for name, value in group.items() if name != "params"}


def _keys_by_name(keys: Mapping[str, Any], wanted: Sequence[Tensor], upstream: UpstreamGroups) -> list:
    """The key of each parameter; a key without state for one that was frozen before."""
    missing = sorted(set(keys) - set(upstream.names.values()))
    if missing:
        refuse(
            f"the checkpoint has a state for {len(missing)} parameters that this model has not "
            f"({', '.join(missing[:3])}{' and more' if len(missing) > 3 else ''})"
        )
    return [keys.get(upstream.names.get(param, ""), ("no state", place)) for place, param in enumerate(wanted)]


def _keys_of_trained(old: list, params: list[Tensor], state: dict) -> list:
    """Keys for a group of an earlier release, which had trainable parameters alone, and shared ones twice."""
    if len(old) == len(params):
        return old
    once, trained = list(dict.fromkeys(old)), [p for p in params if p.requires_grad]
    if len(once) != len(trained):
        refuse(
            f"the checkpoint has {len(once)} trained parameters in a group where this model has {len(trained)} (are "
            "other layers frozen now?)"
        )
    keys = iter(once)
    return [next(keys) if p.requires_grad else ("no state", id(p)) for p in params]


def _check_shapes(keys: Sequence[Any], params: Sequence[Tensor], state: dict) -> None:
    for key, param in zip(keys, params, strict=True):
        for name in LIKE_PARAMETER:
            value = state.get(key, {}).get(name)
            if isinstance(value, Tensor) and value.shape != param.shape:
                refuse(
                    f"a state has shape {tuple(value.shape)} where the parameter has {tuple(param.shape)} (are other "
                    "layers frozen now?)"
                )
