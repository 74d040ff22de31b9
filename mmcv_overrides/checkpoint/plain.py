"""Turns a checkpoint into what ``torch.load(weights_only=True)`` accepts.

A plain tree consists of dict, OrderedDict, Counter, list, tuple, str, bytes, int, float, bool, None, torch.dtype and
Tensor. :func:`plain` makes one. A history of mmengine's message hub becomes a tagged dict of two tensors, from which
:func:`revive` makes the history again; everything else keeps its plain form when read.
"""

from __future__ import annotations

import enum
import os
from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from mmcv_overrides.errors import UserError

_TAG = "__history_buffer__"
_MAX_DEPTH = 100  # deeper than any real checkpoint; also ends cycles, instead of a RecursionError
_EXACT = (bool, int, float, str, bytes, type(None), torch.dtype)


def plain(value: Any, where: str = "checkpoint", depth: int = 0) -> Any:
    """A copy of ``value`` without anything that needs unpickling; tensors are detached, not copied.

    Sets become sorted lists, NumPy scalars Python numbers, NumPy arrays tensors, paths strings, enums their values,
    named tuples tuples.

    Args:
        value: the content.
        where: its position in the checkpoint, for messages.
        depth: its depth in the checkpoint.

    Raises:
        UserError: something has no plain form; the message names its position in the checkpoint.
    """
    if depth > _MAX_DEPTH:
        raise UserError(
            f"cannot save {where[:200]}...: it is nested deeper than {_MAX_DEPTH} levels (or contains itself)"
        )
    if type(value) in _EXACT:
        return value
    if isinstance(value, torch.Tensor):
        return _tensor(value)
    if isinstance(value, Mapping):
        return _mapping(value, where, depth)
    if isinstance(value, (list, tuple, deque, range)):
        return _sequence(value, where, depth)
    return _other(value, where, depth)


def _tensor(value: torch.Tensor) -> torch.Tensor:
    value = value.detach()
    return value if type(value) is torch.Tensor else value.as_subclass(torch.Tensor)


def _mapping(value: Mapping, where: str, depth: int) -> dict:
    kind = next((k for k in (OrderedDict, Counter) if isinstance(value, k)), dict)
    items: Any = kind()
    for key, item in value.items():  # not built from pairs, which a Counter would count
        items[_key(key, where)] = plain(item, f"{where}[{key!r}]", depth + 1)
    metadata = getattr(value, "_metadata", None) if kind is OrderedDict else None
    if metadata:  # versions of the layers, by which load_state_dict renames old tensors
        items._metadata = plain(metadata, f"{where}._metadata", depth + 1)
    return items


def _key(key: Any, where: str) -> Any:
    key = plain(key, f"{where}, key {key!r}")
    try:
        hash(key)
    except TypeError:
        raise UserError(f"cannot save {where}: its key {key!r} has no plain form; use a string or number") from None
    return key


def _sequence(value: Any, where: str, depth: int) -> list | tuple:
    items = [plain(v, f"{where}[{i}]", depth + 1) for i, v in enumerate(value)]
    if not isinstance(value, tuple):
        return items
    # An unchanged tuple is returned itself: mmengine compares pickles of data set metadata, identity included.
    same = type(value) is tuple and all(a is b for a, b in zip(items, value, strict=True))
    return value if same else tuple(items)


def _other(value: Any, where: str, depth: int) -> Any:
    if isinstance(value, enum.Enum):
        return plain(value.value, where, depth + 1)
    if isinstance(value, HistoryBuffer):
        log, count = value.data
        return {
            _TAG: 1,
            "log": _array(log, where),
            "count": _array(count, where),
            "max_length": int(value.max_length),
        }
    if isinstance(value, np.generic):
        return plain(value.item(), where, depth + 1)
    if isinstance(value, np.ndarray):
        return _array(value, where)
    if isinstance(value, AbstractSet):
        return plain(sorted(value, key=lambda v: (str(type(v)), v)), where, depth + 1)
    if isinstance(value, os.PathLike):
        return str(value)
    if isinstance(value, torch.device):
        return str(value)
    for base in (int, float, str):  # subclasses, which pickle by their own name
        if isinstance(value, base):
            return base(value)
    raise UserError(
        f"cannot save {where}: {type(value).__module__}.{type(value).__qualname__} has no plain form, and a "
        "checkpoint with it could only be read by unpickling. Store numbers, strings, tensors, lists or dicts instead"
    )


def _array(value: np.ndarray, where: str) -> torch.Tensor | list:
    """An array as a tensor of its dtype (unsigned 16 to 64 bit: int64), or as nested lists (strings, objects)."""
    if value.dtype.kind == "u" and value.dtype.itemsize > 1:
        if value.dtype.itemsize == 8 and value.size and int(value.max()) > np.iinfo(np.int64).max:
            return value.tolist()
        value = value.astype(np.int64)
    if value.dtype.kind not in "biufc" or value.dtype.itemsize > 16 or value.dtype == np.longdouble:
        return plain(value.tolist(), where)
    native = value.astype(value.dtype.newbyteorder("="), copy=True)
    return torch.from_numpy(np.ascontiguousarray(native).reshape(value.shape))


def revive(value: Any) -> Any:
    """Undo the tags of :func:`plain` in a tree that was just read; lists and dicts are changed in place."""
    return _revive(value, {})


def _revive(value: Any, seen: dict[int, tuple[Any, Any]]) -> Any:
    if hasattr(value, "revived"):  # a placeholder of the restricted unpickler (unpickle.py)
        return value.revived()
    if not isinstance(value, (dict, list, tuple)):
        return value
    if id(value) not in seen:
        # Registered before its content, which may refer to it; kept alive, so that ids stay unique.
        seen[id(value)] = (value, value)
        seen[id(value)] = (value, _revive_content(value, seen))
    return seen[id(value)][1]


def _revive_content(value: Any, seen: dict[int, tuple[Any, Any]]) -> Any:
    if isinstance(value, dict):
        if _TAG in value:
            return history(value["log"], value["count"], value["max_length"])
        for key in value:
            value[key] = _revive(value[key], seen)
    elif isinstance(value, list):
        value[:] = [_revive(v, seen) for v in value]
    elif type(value) is tuple:
        items = tuple(_revive(v, seen) for v in value)
        if any(a is not b for a, b in zip(items, value, strict=True)):
            return items
    return value


def history(log: Any, count: Any, max_length: int) -> HistoryBuffer:
    """An mmengine HistoryBuffer from two sequences of equal length (tensors may be on any device)."""
    log, count = (v.cpu().numpy() if isinstance(v, torch.Tensor) else np.asarray(v) for v in (log, count))
    return HistoryBuffer(log, count, int(max_length))
