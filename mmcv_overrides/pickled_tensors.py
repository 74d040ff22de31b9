"""Tensors in a plain pickle file, such as mmengine's dump of results, rebuilt without calling torch's own functions.

``pickle.dump`` of a tensor names three functions of torch; each has a replacement here that accepts data only.
"""

from __future__ import annotations

import io
from pickle import UnpicklingError
from typing import Any

import torch

from mmcv_overrides.checkpoint.reading import read


def _storage(data: Any) -> Any:
    """For ``torch.storage._load_from_bytes``, which unpickles: the storage, read as a checkpoint is."""
    if not isinstance(data, (bytes, bytearray)):
        raise UnpicklingError("the storage of a tensor that is not bytes")
    found = read(io.BytesIO(data), "the storage of a tensor")
    if not isinstance(found, torch.storage.TypedStorage):
        raise UnpicklingError("the storage of a tensor that is something else")
    return found


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> torch.Tensor:
    """For ``torch._utils._rebuild_tensor_v2``, which enlarges a storage that is too small for the size."""
    if not isinstance(storage, torch.storage.TypedStorage) or len(size) != len(stride):
        raise UnpicklingError("a tensor without a storage, or with sides and strides that do not match")
    numbers = [offset, *size, *stride]
    if any(type(number) is not int or number < 0 for number in numbers):
        raise UnpicklingError("a tensor with an offset, side or stride that is not a count")
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    if 0 not in size and last >= storage._size():
        raise UnpicklingError("a tensor larger than its storage")
    empty = torch.empty(0, dtype=storage.dtype)
    return empty.set_(storage._untyped_storage, offset, tuple(size), tuple(stride))


def _parameter(tensor: Any, *_: Any) -> torch.Tensor:
    """For ``torch._utils._rebuild_parameter``: the tensor."""
    if not isinstance(tensor, torch.Tensor):
        raise UnpicklingError("a parameter without a tensor")
    return tensor


TENSORS = {
    "torch.storage._load_from_bytes": _storage,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
}
