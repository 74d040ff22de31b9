"""The ordered list of steps that make a built detector fast without changing its layers, parameters or results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import nn

from fcos_train.models.fast.cpu_block import other_blocks, quick_blocks
from fcos_train.models.fast.cpu_conv import cpu_paths_off, quick_conv
from fcos_train.models.fast.fold_bn import fold_frozen_bn, unfolded_norms
from fcos_train.models.fast.group_norm import quick_group_norm
from fcos_train.models.fast.towers import obstacle

__all__ = ["cpu_paths_off", "make_fast"]


def make_fast(model: nn.Module, log: Callable[[str], None], fold: bool = True, merge_levels: bool = False) -> None:
    """Apply every fast path that fits. The order matters:

    1. Frozen norms are folded first: folding accepts plain ``nn.Conv2d`` only, and step 3 changes their class.
    2. The towers of the head are checked, which does not depend on the other steps.
    3. Convolutions, then the blocks made of them, which call the convolutions of step 3.
    4. GroupNorm last: no other step looks at it.

    Args:
        model: a detector with a fixed-shape head, on its device, with its weights, without a DDP wrapper.
        log: receives one line per decision, and one line that names frozen norms and blocks without a fast path.
        fold: fold frozen norms. Not at O2, where convolutions are 16-bit and norms are not.
        merge_levels: run the towers of the head over all levels at once, if they allow it.
    """
    if fold:
        folded = fold_frozen_bn(model)
        if folded:
            log(f"{len(folded)} frozen norms folded into their convolutions")
    if merge_levels:
        head: Any = model.bbox_head
        reason = obstacle(head.cls_convs, head.reg_convs)
        head.merge_levels = reason is None
        log("the head's levels are merged" if reason is None else f"the head runs level by level: {reason}")
    quick_conv(model)
    quick_blocks(model)
    quick_group_norm(model)
    left = _left_as_they_are(model, fold)
    if left:
        log(f"without a fast path: {left}")


def _left_as_they_are(model: nn.Module, fold: bool) -> str:
    """What no step has covered, by class: frozen norms, and residual blocks if the model is on a CPU."""
    on_cpu = all(parameter.device.type == "cpu" for parameter in model.parameters())
    found = {
        "frozen norms": unfolded_norms(model) if fold else Counter[str](),
        "residual blocks": other_blocks(model) if on_cpu else Counter[str](),
    }
    return "; ".join(
        f"{counts.total()} {what} ({', '.join(f'{count} in {name}' for name, count in counts.items())})"
        for what, counts in found.items()
        if counts
    )
