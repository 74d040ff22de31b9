"""What replaces what in the mm runtime, and why: the table, the check of each seam, the only place that patches.

An override is valid if it names what it replaces, gives a reason, is the only one for its seam, and can be called like
the original (its signature takes every parameter of the original under the same name).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmengine.registry import Registry


replaced: dict[type, Any] = {}  # classes that registries have replacements for


class SeamError(RuntimeError):
    """Upstream differs from what an override assumes; the message names the seam and the difference."""


@dataclass(frozen=True)
class Override:
    """One replacement.

    Attributes:
        seam: ``REGISTRY:Name`` (an mmengine registry), ``package.module:attribute`` or ``package.module:Class.method``.
        new: the class or function that replaces it.
        why: what is wrong or missing upstream.
    """

    seam: str
    new: Any
    why: str

    @property
    def new_name(self) -> str:
        """Full name of the replacement."""
        return f"{self.new.__module__}.{self.new.__qualname__}"

    def row(self) -> str:
        """``old -> new: why``, for the log."""
        return f"{self.seam} -> {self.new_name}: {self.why}"


def _registry(name: str) -> Registry:
    return getattr(importlib.import_module("mmengine.registry"), name)


def _owner(override: Override) -> tuple[Any, str]:
    """The module or class that has the part, and the name of the part in it."""
    module, path = override.seam.split(":")
    *classes, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in classes:
        owner = getattr(owner, part, None)
    return owner, name


def _original(override: Override) -> Any:
    owner, name = override.seam.split(":")
    if owner.isupper():
        found = _registry(owner).get(name)
    else:
        found = getattr(*_owner(override), None)
    if found is None:
        raise SeamError(f"{override.seam}: upstream no longer has this part; the override is out of date")
    return found


def check_signature(old: Callable, new: Callable, seam: str) -> None:
    """Raise :class:`SeamError` unless every parameter of ``old`` can be passed to ``new`` under the same name."""
    theirs, ours = inspect.signature(old).parameters, inspect.signature(new).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in ours.values())
    lacking = [
        name
        for name, p in theirs.items()
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and name not in ours and not takes_any
    ]
    demanding = [
        name
        for name, p in ours.items()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and name not in theirs
    ]
    if lacking or demanding:
        raise SeamError(f"{seam}: signatures differ; ours lacks {lacking}, ours demands {demanding}")


def apply(overrides: list[Override]) -> None:
    """Check all seams, then install every override; nothing is patched if a check fails."""
    seams = [o.seam for o in overrides]
    doubled = {s for s in seams if seams.count(s) > 1}
    if doubled:
        raise SeamError(f"more than one override for {sorted(doubled)}")
    for override in overrides:
        check_signature(_original(override), override.new, override.seam)
    for override in overrides:
        owner, name = override.seam.split(":")
        if owner.isupper():
            old = _original(override)
            if isinstance(old, type):
                replaced[old] = override.new
            _registry(owner).register_module(name=name, module=override.new, force=True)
        else:
            setattr(*_owner(override), override.new)
