"""Whether the optimizer state of a checkpoint is of the kind of optimizer that would load it.

``torch.optim.Optimizer.load_state_dict`` checks the number of groups and parameters only: the state of AdamW loads into
SGD, and the first step fails with ``KeyError: 'momentum'``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

# How a step is computed, not what it is; releases of torch add such settings, and older states lack them.
NEUTRAL = {"lr", "initial_lr", "weight_decay", "params", "param_names", "maximize", "foreach", "fused", "capturable"}
NEUTRAL |= {"differentiable", "amsgrad", "decoupled_weight_decay"}
# Settings by which a kind of optimizer is recognised -> how a message names it.
KINDS = (("betas", "Adam or AdamW"), ("alpha", "RMSprop"), ("rho", "Adadelta"), ("dampening", "SGD"))


def other_kind(state: Any, optimizer: torch.optim.Optimizer) -> str | None:
    """What the state is of, where that is another kind of optimizer; None if it fits or cannot be told.

    Args:
        state: of a checkpoint, as ``torch.optim.Optimizer.state_dict`` returns it.
        optimizer: which would load it.
    """
    groups = state.get("param_groups") if isinstance(state, Mapping) else None
    if not isinstance(groups, list) or not groups or not all(isinstance(group, Mapping) for group in groups):
        return None
    wanted = set(optimizer.defaults) - NEUTRAL
    if all(wanted <= set(group) for group in groups):
        return None
    found = set(groups[0]) - NEUTRAL
    lacking = ", ".join(sorted(wanted - set.intersection(*(set(group) for group in groups))))
    kind = next((name for key, name in KINDS if key in found), f"an optimizer with {', '.join(sorted(found))}")
    return f"{kind}, this run has {type(optimizer).__name__} (no {lacking} in the checkpoint)"
