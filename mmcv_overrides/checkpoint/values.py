"""Refuses weights that no model can compute with: not finite, or complex."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from mmcv_overrides.checkpoint.writing import is_finite
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable

# Other tensors may hold inf: masks of attention, for one.
_COMPUTED = ("weight", "bias", "running_mean", "running_var")


def check_values(checkpoint: Mapping, name: str) -> None:
    """Look at all tensors of the state dicts of a checkpoint, or of the checkpoint itself if it is one.

    Args:
        name: of the file, for messages.

    Raises:
        UserError: one is complex, has nan, or has inf where a layer would compute with it; the message names it.
    """
    faults = [(key, fault) for key, value in _weights(checkpoint) if (fault := _fault(key, value)) is not None]
    if faults:
        (key, fault), more = faults[0], len(faults) - 1
        also = f" ({more} more tensor{'s' if more > 1 else ''} like it)" if more else ""
        raise UserError(
            f"checkpoint {name}: {printable(key)} {fault}{also}; no model can compute with it. Use an earlier "
            "checkpoint or get the file again"
        )


def _weights(checkpoint: Mapping) -> Iterator[tuple[str, torch.Tensor]]:
    dicts = [v for k, v in checkpoint.items() if str(k).endswith(("state_dict", "model")) and isinstance(v, Mapping)]
    for weights in dicts or [checkpoint]:
        yield from ((str(k), v) for k, v in weights.items() if isinstance(v, torch.Tensor))


def _fault(key: str, value: torch.Tensor) -> str | None:
    if value.is_complex():
        return f"is complex ({str(value.dtype).removeprefix('torch.')})"
    if not value.is_floating_point() or value.layout is not torch.strided or is_finite(value):
        return None
    wrong: Any = ~torch.isfinite(value.float())
    kinds = [kind for kind, found in (("nan", value.isnan().any()), ("inf", value.isinf().any())) if found]
    if kinds == ["inf"] and not key.endswith(_COMPUTED):
        return None
    count = int(wrong.sum())
    share = "only " if count == value.numel() else f"{count} of {value.numel()} values "
    return f"has {share}{' and '.join(kinds)}"
