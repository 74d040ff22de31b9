"""Computing inside of a trace without being traced."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """What runs inside is not recorded. An operator that writes its own ONNX node needs its value alone; recorded
    beside the node, its steps are dead code that the exporter cannot always take out again."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)
