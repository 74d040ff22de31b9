"""Defers imports of packages that mmdet and mmengine load at the start and rarely use.

Plotting, augmentation for lanes, image corruptions and scipy take about a third of the time from the start of a process
to its first log line. In modules of ``mmdet`` and ``mmengine``, and only there, ``import matplotlib.pyplot as plt``
binds a :class:`Deferred` object, which imports the package at its first use. A package that is not installed raises
ImportError as before, so that upstream's ``try: import ...`` still works.
"""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGES = frozenset({"imagecorruptions", "imgaug", "matplotlib", "scipy"})
IMPORTERS = ("mmdet.", "mmengine.")
STATEMENT = re.compile(rb"^\s*(import|from) (%s)\b" % "|".join(sorted(PACKAGES)).encode(), re.MULTILINE)


class Deferred:
    """A module, or an attribute of one, that is imported at its first use: a call, an index, a subclass, a type test.

    Attributes of it are deferred too, because ``from package import name`` reads an attribute.

    Args:
        module: dotted name of a module. names: attributes from there on.
    """

    def __init__(self, module: str, names: tuple[str, ...] = ()) -> None:
        self.__dict__.update(_module=module, _names=names)

    def _resolve(self) -> Any:
        """The object itself. A name that is not an attribute may be a submodule that is not imported yet."""
        found: Any = import_module(self._module)
        path = self._module
        for name in self._names:
            path = f"{path}.{name}"
            if isinstance(found, ModuleType) and not hasattr(found, name):
                import_module(path)
            found = getattr(found, name)
        return found

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            return getattr(self._resolve(), name)
        return Deferred(self._module, (*self._names, name))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Import and call the object."""
        return self._resolve()(*args, **kwargs)

    def __getitem__(self, key: Any) -> Any:
        return self._resolve()[key]

    def __contains__(self, item: Any) -> bool:
        return item in self._resolve()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._resolve())

    def __len__(self) -> int:
        return len(self._resolve())

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, self._resolve())

    def __subclasscheck__(self, subclass: type) -> bool:
        return issubclass(subclass, self._resolve())

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (self._resolve(),)


def _import(
    name: str,
    globals: dict[str, Any] | None = None,  # noqa: A002  as the built-in names them
    locals: dict[str, Any] | None = None,  # noqa: A002
    fromlist: tuple[str, ...] = (),
    level: int = 0,
) -> Any:
    package = name.partition(".")[0]
    if level or package not in PACKAGES or package in sys.modules or find_spec(package) is None:
        return builtins.__import__(name, globals, locals, fromlist, level)
    return Deferred(name if fromlist else package)


class _Loader(SourceFileLoader):
    """Runs a module whose import statements go through :func:`_import`."""

    def exec_module(self, module: ModuleType) -> None:
        """As the base class, with :func:`_import` as the module's ``__import__``."""
        module.__dict__["__builtins__"] = {**vars(builtins), "__import__": _import}
        super().exec_module(module)
        module.__dict__["__builtins__"] = vars(builtins)


class _Finder(MetaPathFinder):
    """Finds modules as Python does, and loads those of mmdet and mmengine with such imports by :class:`_Loader`."""

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """None for modules of other packages."""
        if not fullname.startswith(IMPORTERS):
            return None
        found = PathFinder.find_spec(fullname, path, target)
        if found is None or type(found.loader) is not SourceFileLoader or found.origin is None:
            return found
        if not STATEMENT.search(Path(found.origin).read_bytes()):
            return found
        return spec_from_file_location(
            fullname,
            found.origin,
            loader=_Loader(fullname, found.origin),
            submodule_search_locations=found.submodule_search_locations,
        )


def install() -> None:
    """Defer the imports of modules that are not loaded yet. A second call does nothing."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
