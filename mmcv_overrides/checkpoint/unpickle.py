"""The harmless globals that checkpoints of other programs name, each replaced by an inert placeholder.

``torch.load(weights_only=True)`` calls what is on its allow-list with arguments from the file. So no real object is put
there: not NumPy's constructors (a crafted dtype state can corrupt memory, an object dtype can hold anything), not
``getattr`` (which reaches everything), not HistoryBuffer (its ``__setstate__`` writes to a class attribute). Each name
is mapped to a placeholder that keeps plain data, from which :func:`.plain.revive` makes the object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any, Literal

import numpy as np
import torch

from mmcv_overrides.checkpoint.plain import history, revive

_DTYPE = re.compile(r"(b1|[iu][1248]|f[248]|c(8|16)|[SU]\d{1,5})")  # no objects, records, pointers


class _DType:
    """For ``numpy.dtype``: two short strings, checked against the types of numbers and text."""

    def __init__(self, code: Any = "", *_: Any) -> None:
        self.code = code.decode("ascii") if isinstance(code, bytes) else str(code)
        self.order = "="

    def __setstate__(self, state: tuple) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else "="
        self.order = order.decode("ascii") if isinstance(order, bytes) else str(order)

    def real(self) -> np.dtype:
        """The NumPy dtype; UnpicklingError if it is not a type of numbers or text."""
        if not _DTYPE.fullmatch(self.code) or self.order not in "<>|=":
            raise UnpicklingError(f"numpy dtype {self.code!r} is not a type of numbers or text")
        return np.dtype(self.order.replace("|", "") + self.code)


class _Array:
    """For ``numpy.ndarray``: shape and raw bytes; NumPy itself checks that they match."""

    state: tuple = (1, (0,), None, False, b"")

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: tuple) -> None:
        self.state = state

    def revived(self) -> np.ndarray:
        """The object."""
        _, shape, dtype, fortran, raw = self.state
        if not isinstance(dtype, _DType) or not isinstance(raw, (bytes, bytearray)):
            raise UnpicklingError("a numpy array that holds python objects")
        order: Literal["F", "C"] = "F" if fortran else "C"
        return np.frombuffer(raw, dtype.real()).reshape(tuple(int(n) for n in shape), order=order).copy(order)


class _History:
    """For mmengine's HistoryBuffer: two arrays and a length; the stored statistics functions are dropped."""

    def __init__(self, *_: Any) -> None:
        self.state: dict = {}

    def __setstate__(self, state: dict) -> None:
        self.state = state

    def revived(self) -> Any:
        """The object."""
        log, count = (revive(self.state.get(k, [])) for k in ("_log_history", "_count_history"))
        return history(log, count, self.state.get("max_length", 1000000))


class _Dict:
    """For dict types of the mm config classes and ``defaultdict``: a plain dict, filled by the unpickler."""

    def __new__(cls, *args: Any) -> Any:
        return dict(args[0]) if args and isinstance(args[0], dict) else {}


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    """For ``numpy.core.multiarray.scalar``: the Python number (NumPy's own function accepts objects)."""
    if not isinstance(dtype, _DType) or not isinstance(raw, (bytes, bytearray)):
        raise UnpicklingError("a numpy scalar that holds a python object")
    return np.frombuffer(raw, dtype.real(), count=1)[0].item()


def _reconstruct(*_: Any) -> Any:
    """For ``numpy.core.multiarray._reconstruct``: the placeholder array, whatever class the file names."""
    return _NDARRAY()


def _encode(text: Any, codec: Any = "latin1", *_: Any) -> bytes:
    """For ``_codecs.encode``, with which protocol 2 writes bytes: latin1 only (torch < 2.5 lacks it)."""
    if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
        raise UnpicklingError("_codecs.encode with a codec other than latin1")
    return text.encode("latin1")


def _nothing(*_: Any) -> None:
    """For ``getattr``, through which HistoryBuffer's functions are pickled: never looks anything up."""


def _named(target: Any, module: str, name: str) -> Any:
    """``target`` under another name: the allow-list looks at ``__module__`` and ``__qualname__`` or ``__name__``."""
    if isinstance(target, type):
        return type(name, (target,), {"__module__": module})

    def placeholder(*args: Any) -> Any:
        return target(*args)

    placeholder.__module__, placeholder.__name__, placeholder.__qualname__ = module, name, name
    return placeholder


_NDARRAY = _named(_Array, "numpy", "ndarray")
_PLACEHOLDERS = [
    _NDARRAY,
    _named(_DType, "numpy", "dtype"),
    _named(_History, "mmengine.logging.history_buffer", "HistoryBuffer"),
    _named(_Dict, "mmengine.config.config", "ConfigDict"),
    _named(_Dict, "mmcv.utils.config", "ConfigDict"),
    _named(_Dict, "addict.addict", "Dict"),
    _named(_Dict, "collections", "defaultdict"),
    _named(_encode, "_codecs", "encode"),
    *(_named(_nothing, module, "getattr") for module in ("builtins", "__builtin__")),
    *(
        _named(_nothing, module, kind)
        for module in ("builtins", "__builtin__")
        for kind in ("list", "dict", "int", "float")
    ),
    *(_named(_scalar, f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core")),
    *(_named(_reconstruct, f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
]
BY_NAME = {f"{s.__module__}.{s.__qualname__}": s for s in _PLACEHOLDERS}
ALLOWED = frozenset(BY_NAME)


@contextmanager
def placeholders() -> Iterator[None]:
    """Within this context ``torch.load(weights_only=True)`` accepts the placeholders.

    Other entries of the allow-list stay, except under the names of ours (mmengine allow-lists the real ``getattr``).
    """
    before = torch.serialization.get_safe_globals()
    others = [g for g in before if _full_name(g) not in ALLOWED]
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals([*others, *_PLACEHOLDERS])
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _full_name(entry: Any) -> str:
    if isinstance(entry, tuple):
        return entry[1]
    return f"{entry.__module__}.{entry.__qualname__}"
