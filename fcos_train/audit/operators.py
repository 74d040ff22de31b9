"""Which operators run on an Ascend NPU, from torch_npu's own list (``native_operators.json``).

The list holds the operators that ``npu_native_functions*.yaml`` of the named torch_npu release declares. Every other
operator runs through a fallback that copies its inputs to the host and the result back.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import torch

ON_HOST = ("host", "none")


@functools.cache
def _lists() -> dict:
    return json.loads((Path(__file__).parent / "native_operators.json").read_text(encoding="utf-8"))


def source() -> str:
    """The torch_npu release that the list was taken from."""
    return _lists()["source"]


@functools.cache
def _names(key: str) -> frozenset[str]:
    return frozenset(_lists()[key])


@functools.cache
def classify(name: str) -> str:
    """How torch_npu runs an operator such as ``aten::add.Tensor``.

    Returns:
        ``native``; ``branch`` (native, but on the host for some arguments); ``composite`` (decomposed into other
        operators); ``host`` (copied to the host and back); ``none`` (no kernel at all).
    """
    namespace, op = name.split("::")
    if namespace == "npu":
        return "native" if op in _names("npu") else "none"
    if namespace == "aten" and op in _names("native"):
        return "branch" if op in _names("host_branch") else "native"

    def has(key: str) -> bool:
        return torch._C._dispatch_has_kernel_for_dispatch_key(name, key)

    try:
        if has("CompositeExplicitAutogradNonFunctional"):
            outs = _outs(op.split(".")[0])
            if any(torch._C._dispatch_has_kernel_for_dispatch_key(out, "CPU") for out in outs):  # runs through out=
                return "native" if any(out.removeprefix("aten::") in _names("native") for out in outs) else "host"
            return "composite"
        if has("CompositeExplicitAutograd") or has("CompositeImplicitAutograd"):
            return "composite"
        return "host" if has("CPU") else "none"
    except RuntimeError:  # not an operator of this process
        return "none"


def _outs(base: str) -> list[str]:
    """The ``out=`` overloads of an aten operator."""
    packet = getattr(torch.ops.aten, base, None)
    return [f"aten::{base}.{name}" for name in (packet.overloads() if packet is not None else ()) if "out" in name]
