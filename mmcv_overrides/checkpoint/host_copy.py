"""A copy of a checkpoint's content in host memory, taken in one go while training waits.

The memory is allocated at the first copy and kept: writing into memory that a process already owns is several times
faster than asking the system for new pages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

_ALIGNED = 64  # bytes; address of each tensor's storage


class HostCopy:
    """Copies plain trees (see :mod:`.plain`); the tensors of a copy are valid until the next one is taken."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that are kept for the copies."""
        return self._memory.nbytes

    def take(self, content: Any) -> Any:
        """A tree equal to ``content`` that shares no memory with it.

        Tensors in host memory keep their strides, and share a storage where they did: ``torch.save`` writes the same
        bytes for both trees. Tensors of an accelerator are copied one by one.

        Args:
            content: of dicts, lists, tuples and tensors; other values are taken over.
        """
        held: dict[int, torch.UntypedStorage] = {}
        for_each_tensor(content, lambda tensor: held.update(_storage(tensor)))
        needed = sum(_rounded(storage.nbytes()) for storage in held.values()) + _ALIGNED
        if needed > self._memory.nbytes:
            self._memory = np.empty(0, np.uint8)  # the old memory goes first
            self._memory = np.zeros(needed, np.uint8)
        position = -self._memory.ctypes.data % _ALIGNED
        copies = {}
        for address, storage in held.items():
            place = torch.frombuffer(self._memory, dtype=torch.uint8, count=storage.nbytes(), offset=position)
            copies[address] = place.untyped_storage().copy_(storage)
            position += _rounded(storage.nbytes())
        return _copied(content, copies)


def _rounded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _storage(tensor: torch.Tensor) -> dict[int, torch.UntypedStorage]:
    """The storage by its address; nothing for tensors that are copied one by one, or have no content."""
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_conj():
        return {}
    storage = tensor.untyped_storage()
    return {storage.data_ptr(): storage} if storage.nbytes() else {}


def for_each_tensor(content: Any, visit: Callable[[torch.Tensor], object]) -> None:
    """Call ``visit`` for every tensor of a plain tree, in the order of the tree."""
    if isinstance(content, torch.Tensor):
        visit(content)
    elif isinstance(content, dict):
        for item in content.values():
            for_each_tensor(item, visit)
    elif isinstance(content, (list, tuple)):
        for item in content:
            for_each_tensor(item, visit)


def _copied(content: Any, copies: dict[int, torch.UntypedStorage]) -> Any:
    if isinstance(content, torch.Tensor):
        return _tensor(content, copies)
    if isinstance(content, dict):
        items = type(content)()
        for key, item in content.items():  # not built from pairs, which a Counter would count
            items[key] = _copied(item, copies)
        if hasattr(content, "_metadata"):
            items._metadata = content._metadata  # type: ignore[attr-defined]  # of state dicts
        return items
    if isinstance(content, (list, tuple)):
        return type(content)(_copied(item, copies) for item in content)
    return content


def _tensor(tensor: torch.Tensor, copies: dict[int, torch.UntypedStorage]) -> torch.Tensor:
    storage = copies.get(next(iter(_storage(tensor)), -1))
    if storage is None:
        return tensor.cpu() if tensor.device.type not in ("cpu", "meta") else tensor.clone()
    return torch.empty(0, dtype=tensor.dtype).set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())
