"""Optimizer states of checkpoints with fewer parameters than the optimizer has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mmcv_overrides.errors import UserError


def fit_groups(saved: dict, groups: list[dict]) -> tuple[list[dict], list[int | None]]:
    """The saved parameter groups with an entry for every parameter of the optimizer.

    Without ``paramwise_cfg``, earlier releases gave the optimizer only trainable parameters, and those that two modules
    share twice. The entries of such a group are assigned to the parameters that require gradients now, in the same
    order.

    Args:
        saved: state dict of an optimizer.
        groups: ``param_groups`` of the optimizer that will load it.

    Returns:
        groups to load, and for each parameter of ``groups`` its position among the saved ones, or None.

    Raises:
        UserError: a group has another number of trainable parameters, or a state has another shape.
    """
    olds = saved["param_groups"]
    if len(olds) != len(groups):  # refused by torch
        return olds, []
    flat = [key for old in olds for key in old["params"]]
    fitted = [
        {**old, "params": _keys(old["params"], group["params"], saved["state"])}
        for old, group in zip(olds, groups, strict=True)
    ]
    return fitted, _positions([key for group in fitted for key in group["params"]], flat)


def _positions(keys: Sequence[Any], flat: list) -> list[int | None]:
    first = {key: place for place, key in reversed(list(enumerate(flat)))}
    return [first.get(key) for key in keys]


def _keys(old: list, params: list[Tensor], state: dict) -> list:
    if len(old) == len(params):
        return old
    once, trained = list(dict.fromkeys(old)), [p for p in params if p.requires_grad]
    if len(once) != len(trained):
        raise UserError(
            f"cannot resume the optimizer: the checkpoint has {len(once)} trained parameters in a group where this "
            f"model has {len(trained)} (are other layers frozen now?). To start a new training from its weights use "
            "load_from",
            setting="load_from",
        )
    keys = iter(once)
    fitted = [next(keys) if p.requires_grad else ("no state", place) for place, p in enumerate(params)]
    for key, param in zip(fitted, params, strict=True):
        shapes = {tuple(v.shape) for v in state.get(key, {}).values() if isinstance(v, Tensor) and v.dim()}
        if shapes - {tuple(param.shape)}:
            raise UserError(
                f"cannot resume the optimizer: a state has shape {shapes.pop()} where the parameter has "
                f"{tuple(param.shape)} (are other layers frozen now?). To start a new training from its weights use "
                "load_from",
                setting="load_from",
            )
    return fitted
