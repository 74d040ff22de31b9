"""Where an exported graph ends: one object per kind of end, registered here.

This module imports no torch, so that a command line can offer :data:`ENDS` at once.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fcos_train.deploy.onnx.ends.base import End

# Name -> "module:class" of an `End`. The modules are imported when an end is used.
_REGISTRY = {
    "raw": "standard:Raw",
    "decoded": "standard:Decoded",
    "nms": "standard:Nms",
    "ascend": "ascend:Ascend",
    "adelaidet": "levels:AdelaiDet",
    "rdk": "levels:Rdk",
}
ENDS = tuple(_REGISTRY)
FIXED_SIZE = ("ascend", "adelaidet", "rdk")  # the runtime compiles for one height and width


@cache
def end_of(name: str) -> End:
    """The end of this name, one of :data:`ENDS`."""
    module, _, kind = _REGISTRY[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), kind)(name)


def detection_ends() -> tuple[str, ...]:
    """Names of the ends that return detections."""
    return tuple(name for name in ENDS if end_of(name).returns_detections)
