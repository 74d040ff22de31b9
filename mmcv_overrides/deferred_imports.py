"""Defers imports of packages that mmdet and mmengine load at the start and rarely use.

Plotting, augmentation for lanes, image corruptions, scipy and torch's sharding take about half of the time from the
start of a process to its first log line. In modules of ``mmdet`` and ``mmengine``, and only there, ``import
matplotlib.pyplot as plt`` binds a :class:`Deferred` object, which imports the package at its first use. A package that
is not installed raises ImportError as before, so that upstream's ``try: import ...`` still works.
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

PACKAGES = (
    "imagecorruptions", "imgaug", "matplotlib", "scipy", "sklearn", "torch.distributed.fsdp", "torch.distributed.optim",
)  # fmt: skip
# typing asks for these in ``Union[str, SomeClass]``; a class has none of them.
NOT_A_TYPE_FORM = ("__args__", "__origin__", "__parameters__", "__unpacked__")
IMPORTERS = ("mmdet.", "mmengine.")
STATEMENT = re.compile(rb"^\s*(import|from) (%s)\b" % "|".join(map(re.escape, PACKAGES)).encode(), re.MULTILINE)


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
        if name == "__name__":  # registries ask for it
            return (self._names or (self._module,))[-1]
        if name in NOT_A_TYPE_FORM or name.startswith("__typing_"):
            raise AttributeError(name)
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

    def __bool__(self) -> bool:  # without it, the truth of a module would be its length
        return bool(self._resolve())

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, self._resolve())

    def __subclasscheck__(self, subclass: type) -> bool:
        return issubclass(subclass, self._resolve())

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        # The classes of torch are written in Python; only such a class can take the place of another base.
        return (_late_base(self) if self._module.startswith("torch.") else self._resolve(),)


def _late_base(deferred: Deferred) -> type:
    """A base class that gives its place to the deferred one when the first object of a subclass is made."""

    def make(cls: type, *args: Any, **kwargs: Any) -> Any:
        """``__new__`` of the subclass; object's own refuses the arguments of ``__init__``."""
        new = deferred._resolve().__new__
        return new(cls) if new is object.__new__ else new(cls, *args, **kwargs)

    class Late:
        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            for owner in cls.__mro__:
                if Late in owner.__bases__:
                    real = deferred._resolve()
                    owner.__bases__ = tuple(real if base is Late else base for base in owner.__bases__)
                    owner.__new__ = staticmethod(make)  # type: ignore[method-assign, assignment]
            return make(cls, *args, **kwargs)

    return Late


def _import(
    name: str,
    globals: dict[str, Any] | None = None,  # noqa: A002  as the built-in names them
    locals: dict[str, Any] | None = None,  # noqa: A002
    fromlist: tuple[str, ...] = (),
    level: int = 0,
) -> Any:
    package = next((one for one in PACKAGES if name == one or name.startswith(f"{one}.")), None)
    if level or package is None or package in sys.modules or find_spec(package) is None:
        return builtins.__import__(name, globals, locals, fromlist, level)
    return Deferred(name if fromlist else name.partition(".")[0])


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
