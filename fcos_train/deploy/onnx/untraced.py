"""Computes during a trace without being traced."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Pause tracing.

    Of an operator that writes its own ONNX node only the value is needed; if its steps were recorded as well, they
    would be dead code that the exporter cannot always remove.
    """
    tracer: Any = torch._C  # the stubs of torch lack the setter
    state = tracer._get_tracing_state()
    tracer._set_tracing_state(None)
    try:
        yield
    finally:
        tracer._set_tracing_state(state)
