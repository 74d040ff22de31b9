"""What replaces what in the mm runtime, and why: the table, the check of each seam, the one place that patches.

An override is legal when it names what it replaces, gives a reason, is the only one for its seam, and can be called
wherever the original was (its signature takes every parameter of the original under the same name).
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class SeamError(RuntimeError):
    """Upstream no longer looks as an override assumes; the message names the seam and the difference."""


@dataclass(frozen=True)
class Override:
    """One replacement. ``seam`` is ``REGISTRY:Name`` (an mmengine registry), ``package.module:attribute`` or
    ``package.module:Class.method``."""

    seam: str
    new: Any
    why: str

    @property
    def new_name(self) -> str:
        return f"{self.new.__module__}.{self.new.__qualname__}"

    def row(self) -> str:
        return f"{self.seam} -> {self.new_name}: {self.why}"


def _registry(name: str):
    return getattr(importlib.import_module("mmengine.registry"), name)


def _owner(override: Override) -> tuple[Any, str]:
    """The module or class that holds the part, and the part's name there."""
    module, path = override.seam.split(":")
    *classes, name = path.split(".")
    owner = importlib.import_module(module)
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
        raise SeamError(f"{override.seam}: upstream has no such part any more; the override is out of date")
    return found


def check_signature(old: Callable, new: Callable, seam: str) -> None:
    """Raise :class:`SeamError` unless every parameter of ``old`` can be given to ``new`` under the same name."""
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
    """Check all seams, then put every override in place; nothing is patched when one seam fails."""
    seams = [o.seam for o in overrides]
    doubled = {s for s in seams if seams.count(s) > 1}
    if doubled:
        raise SeamError(f"more than one override for {sorted(doubled)}")
    for override in overrides:
        check_signature(_original(override), override.new, override.seam)
    for override in overrides:
        owner, name = override.seam.split(":")
        if owner.isupper():
            _registry(owner).register_module(name=name, module=override.new, force=True)
        else:
            setattr(*_owner(override), override.new)
