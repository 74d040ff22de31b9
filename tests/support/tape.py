"""A stand-in for CUDA graphs on a CPU, so that the logic around a capture can be tested without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Its schema does not tell that it updates the running statistics.
WRITES_TOO = {"aten::native_batch_norm": ("running_mean", "running_var")}
FORBIDDEN = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero"}


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def _place(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Tape(TorchDispatchMode):
    """Records every operator with the tensors and numbers of its call; :meth:`play` repeats them in place.

    As in a capture, numbers of the host are frozen, results are always written to the same memory, a read-back is an
    error, and the recording leaves all tensors that existed before unchanged.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple] = []
        self.made: set[int] = set()
        self.before: dict[int, tuple] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func._schema.name in FORBIDDEN:
            raise RuntimeError("operation not permitted when stream is capturing")
        written = _written(func, args, kwargs)
        for tensor in written:
            if _place(tensor) not in self.made | self.before.keys():
                self.before[_place(tensor)] = (tensor.untyped_storage(), tensor.untyped_storage().clone())
        inputs = {_place(tensor) for tensor in _tensors((args, kwargs))}
        result = func(*args, **kwargs)
        fresh = [_place(tensor) not in inputs for tensor in _tensors(result)]
        self.made |= {_place(tensor) for tensor, own in zip(_tensors(result), fresh) if own}
        if written or any(fresh):  # a mere view stays what it is
            self.calls.append((func, args, kwargs, _tensors(result), fresh))
        return result

    def rewind(self) -> None:
        for storage, content in self.before.values():
            storage.copy_(content)

    @torch.no_grad()
    def play(self) -> None:
        for func, args, kwargs, results, fresh in self.calls:
            for result, value, own in zip(results, _tensors(func(*args, **kwargs)), fresh, strict=True):
                if own:
                    result.copy_(value)


def _written(func, args: tuple, kwargs: dict) -> list[torch.Tensor]:
    """Tensors that the operator writes to."""
    named = dict(zip((a.name for a in func._schema.arguments), args)) | kwargs
    writes = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    writes += WRITES_TOO.get(func._schema.name, ())
    return _tensors([named[name] for name in writes if name in named])


class TapedGraphs:
    """In the place of :class:`fcos_train.engine.graphed.CudaGraphs`."""

    def __init__(self) -> None:
        self.captures = self.plays = 0

    def warm(self, function: Callable):
        return function()

    def capture(self, function: Callable):
        self.captures += 1
        with Tape() as tape:
            outputs = function()
        tape.rewind()

        def play() -> None:
            self.plays += 1
            tape.play()

        return outputs, play
