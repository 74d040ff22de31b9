"""An exception from building a part of a config becomes one line that names the part by its dotted path.

The checks of keys and values find what holds for every part; whether ``depth=19`` is a ResNet, only the class knows,
and it says so with an exception of its own in the middle of torch. A fault in a class of the user's own keeps its
traceback: there the code is to be mended, not the config.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from mmengine.config import Config
from mmengine.registry import build_functions

from fcos_train.config.vetting import PACKAGES
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable

_BUILDER = build_functions.build_from_cfg.__code__
_SAID = 300  # characters of what the exception says
# mmengine's loops, loaders and samplers are built by methods of the runner, which take the dictionary as an argument.
_ARGUMENTS = {"build_dataloader": "dataloader", "build_train_loop": "loop", "build_val_loop": "loop"}


@contextmanager
def parts_named(cfg: Config) -> Iterator[None]:
    """Within it, an exception that a part raises while it is built is a user error.

    Raises:
        UserError: the message has the dotted path of the part, its type and what it says.
    """
    try:
        yield
    except (UserError, ImportError, MemoryError):
        raise
    except Exception as error:
        where = _place(error.__traceback__, cfg)
        if where is None:
            raise
        raise UserError(f"in the config: {where} cannot be built: {said_by(error)}") from error


def said_by(error: BaseException) -> str:
    """Type and text of an exception in one line."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    said = printable(" ".join(str(text).partition(". Please check")[0].split()))[:_SAID]
    return f"{type(error).__name__}{': ' if said else ''}{said}"


def _place(traceback: TracebackType | None, cfg: Config) -> str | None:
    """The innermost part of the config that was being built; None if none was, or if it is the user's own class."""
    found: str | None = None
    plain = cfg.to_dict()
    while traceback is not None:
        part = _part(traceback.tb_frame)
        if part is not None:
            path = _path(plain, _plain(part), "")
            kind = part.get("type")
            if path is not None:
                found = f"{path} ({getattr(kind, '__name__', kind)})" if kind else path
        elif found is not None and is_foreign(traceback.tb_frame):
            return None
        traceback = traceback.tb_next
    return found


def _part(frame: FrameType) -> dict[str, Any] | None:
    """The dictionary that a frame builds an object from."""
    name = "cfg" if frame.f_code is _BUILDER else _ARGUMENTS.get(frame.f_code.co_name)
    part = frame.f_locals.get(name) if name else None
    return part if isinstance(part, dict) else None


def is_foreign(frame: FrameType) -> bool:
    """Whether its code is neither a library's nor this project's."""
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return package not in (*PACKAGES, "torch", "numpy", "contextlib", "importlib", "functools", "inspect", "abc")


def _path(node: Any, wanted: dict[str, Any], path: str) -> str | None:
    """The dotted path of the first dictionary that is, or was made into, the wanted one."""
    if isinstance(node, dict) and path and _is_same(node, wanted):
        return path
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, child in children:
        found = _path(child, wanted, f"{path}.{key}" if path else str(key))
        if found is not None:
            return found
    return None


def _is_same(node: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Owners add keys to a part before they build it, and take some out: the rest, and its type, are the same."""
    shared = [key for key in wanted if key in node and key not in ("_scope_", "type")]
    kinds = [str(part.get("type")) for part in (node, wanted)]
    if not kinds[1].endswith(kinds[0]) or (not shared and len(node) > 1):  # FCOSHead is tried as FixedShapeFCOSHead
        return False
    return all(_equal(node[key], wanted[key]) for key in shared)


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other) or one != one
    except (ValueError, RuntimeError):  # arrays and tensors
        return False


def _plain(part: dict[str, Any]) -> dict[str, Any]:
    return part.to_dict() if hasattr(part, "to_dict") else dict(part)
