"""Keeps torch's compiler unloaded until something is compiled: to load it takes 2 s of every start of a training.

Methods of optimizers and of DistributedDataParallel import ``torch._dynamo`` at their first call, to exclude themselves
from compilation (``torch._disable_dynamo``) or to interrupt it (``step``). As long as that module is not loaded nothing
can be compiling, so they are called without it; after that torch's own wrappers do as before.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

Method = Callable[..., Any]
CLASSES = (Optimizer, DistributedDataParallel)
EXCLUDING = ("inner", "_compile.py")  # name and file of the code of torch's wrappers; their __name__ is the method's
INTERRUPTING = ("_use_grad", "optimizer.py")
KEPT = "__dynamo_disable"  # where torch._disable_dynamo keeps what it calls instead of the method


def _is(method: Any, wrapper: tuple[str, str]) -> bool:
    code = getattr(method, "__code__", None)
    return code is not None and (code.co_name, os.path.basename(code.co_filename)) == wrapper


def excluded_methods() -> Iterator[tuple[Method, Method]]:
    """(wrapper, method) of each method that ``torch._disable_dynamo`` has wrapped, under other wrappers too."""
    for owner in CLASSES:
        for method in vars(owner).values():
            while (wrapped := getattr(method, "__wrapped__", None)) is not None:
                if _is(method, EXCLUDING):
                    yield method, wrapped
                method = wrapped


def interrupting_steps() -> Iterator[tuple[type[Optimizer], Method]]:
    """(optimizer, ``step``) of each optimizer of torch whose step interrupts the compiler."""
    for found in vars(torch.optim).values():
        step = vars(found).get("step") if isinstance(found, type) else None
        if step is not None and _is(step, INTERRUPTING) and hasattr(step, "__wrapped__"):
            yield found, step


def _excluded(wrapper: Method, method: Method) -> Method:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return method(*args, **kwargs)
        if getattr(method, KEPT, None) is call:
            delattr(method, KEPT)
        return wrapper(*args, **kwargs)

    return call


def _interrupting(step: Method) -> Method:
    @functools.wraps(step)
    def call(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if "torch._dynamo" in sys.modules:
            return step(self, *args, **kwargs)
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return step.__wrapped__(self, *args, **kwargs)  # type: ignore[attr-defined]

    return call


def install() -> None:
    """Defer the compiler; what has loaded it already stays as it is. A second call does nothing."""
    for wrapper, method in excluded_methods():
        if not hasattr(method, KEPT):
            setattr(method, KEPT, _excluded(wrapper, method))
    for optimizer, step in interrupting_steps():
        optimizer.step = _interrupting(step)  # type: ignore[method-assign]
