"""The one ordered list of what makes a built detector fast without changing its layers, parameters or results."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from fcos_train.models.fast.cpu_block import quick_blocks
from fcos_train.models.fast.cpu_conv import quick_conv
from fcos_train.models.fast.fold_bn import fold_frozen_bn
from fcos_train.models.fast.group_norm import quick_group_norm


def make_fast(model: nn.Module, log: Callable[[str], None], fold: bool = True, merge_levels: bool = False) -> None:
    """Apply every fast path that fits, in the only order that works.

    1. Frozen norms are folded first: folding accepts plain ``nn.Conv2d`` only, and the next step changes their class.
    2. The head decides on its towers while its convolutions still have their own classes.
    3. Convolutions, then the blocks made of them, which call the convolutions of step 3.
    4. GroupNorm last: no other step looks at it.

    Args:
        model: a detector with a fixed-shape head, on its device, with its weights, without a DDP wrapper.
        log: receives one line for each decision.
        fold: fold frozen norms. Not at O2, where convolutions are 16-bit and norms are not.
        merge_levels: run the towers of the head over all levels at once, where the head allows it.
    """
    if fold:
        folded = fold_frozen_bn(model)
        if folded:
            log(f"{len(folded)} frozen norms folded into their convolutions")
    if merge_levels:
        obstacle = model.bbox_head.canvas_obstacle()
        model.bbox_head.merge_levels = obstacle is None
        log("the head's levels are merged" if obstacle is None else f"levels one by one: {obstacle}")
    quick_conv(model)
    quick_blocks(model)
    quick_group_norm(model)
