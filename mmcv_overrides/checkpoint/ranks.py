"""Work that one rank does and all ranks must agree on, so that none waits for ever on a rank that failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process

from mmcv_overrides.checkpoint.writing import NonFiniteWeights
from mmcv_overrides.errors import UserError

_KINDS = {"NonFiniteWeights": NonFiniteWeights, "UserError": UserError}


def on_master(action: Callable[[], Any]) -> Any:
    """Run ``action`` on rank 0 and return its result on every rank (it is pickled on the way).

    Raises:
        UserError, NonFiniteWeights: on every rank, when rank 0 raised it.
        RuntimeError: on the other ranks, when rank 0 raised anything else (which rank 0 raises as it is).
    """
    outcome: list[Any] = [None]
    failure: Exception | None = None
    if is_main_process():
        try:
            outcome = [("", action())]
        except Exception as error:
            failure = error
            outcome = [(type(error).__name__, str(error))]
    broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    kind, value = outcome[0]
    if kind:
        raise _KINDS.get(kind, RuntimeError)(value if kind in _KINDS else f"rank 0 failed: {kind}: {value}")
    return value
