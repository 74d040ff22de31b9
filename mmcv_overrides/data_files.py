"""YAML and pickle files read as data by ``mmengine.load`` and ``Config.fromfile``.

Upstream's YAML handler uses the loader that calls any Python function that a tag names; its pickle handler unpickles.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from types import FunctionType
from typing import IO, Any

import yaml
from mmengine.fileio.handlers.pickle_handler import PickleHandler

from mmcv_overrides.checkpoint import limits
from mmcv_overrides.checkpoint.plain import revive
from mmcv_overrides.checkpoint.reading import HOW_TO_TRUST, trusted
from mmcv_overrides.checkpoint.unpickle import BY_NAME
from mmcv_overrides.errors import UserError
from mmcv_overrides.pickled_tensors import TENSORS
from mmcv_overrides.seams import Override

try:
    from yaml import CSafeLoader as SafeLoader
except ImportError:  # PyYAML without libyaml
    from yaml import SafeLoader

MAX_REPEATED = 500_000  # values that the aliases of a YAML file may add
_upstream_load = PickleHandler.load_from_fileobj


def load_yaml(self: Any, file: IO, **kwargs: Any) -> Any:
    """Replaces ``YamlHandler.load_from_fileobj``: values only, unless the caller passes another loader.

    Raises:
        UserError: a tag for more than a value, aliases that expand too far, or damaged YAML; with the line.
    """
    if kwargs.get("Loader") is not None:
        return yaml.load(file, **kwargs)
    text = file.read()
    name = getattr(file, "name", "the YAML file")
    try:
        _check_aliases(text, str(name))
        return yaml.load(text, Loader=SafeLoader)
    except yaml.constructor.ConstructorError as error:
        raise UserError(f"{name}: {_line(error)}{error.problem}; only values are read, nothing was executed") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        text = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"{name}: {_line(error)}cannot be read as YAML: {text}") from error


def _line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return "" if mark is None else f"line {mark.line + 1}: "


def _check_aliases(text: str | bytes, name: str) -> None:
    """Refuse aliases that expand exponentially and nesting that exhausts the stack, by the parser's events alone."""
    sizes: dict[str, int | None] = {}  # anchor -> values in it; None while it is open
    open_nodes: list[tuple[str | None, int]] = [(None, 0)]  # (anchor, values so far), outermost first
    repeated = 0
    for event in yaml.parse(text, Loader=SafeLoader):
        size, anchor = 0, getattr(event, "anchor", None)
        line = f"{name}: line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            aliased = sizes.get(str(anchor), 0)
            if aliased is None:
                raise UserError(f"{line}: '*{anchor}' contains itself")
            size = aliased
            repeated += size
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            if anchor:
                sizes[anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            if anchor:
                sizes[anchor] = None
            open_nodes.append((anchor, 1))
            if len(open_nodes) > limits.MAX_DEPTH:
                raise UserError(f"{line}: nested deeper than {limits.MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
            if anchor:
                sizes[anchor] = size
        outer, before = open_nodes[-1]
        open_nodes[-1] = (outer, before + size)
        if repeated > MAX_REPEATED:
            raise UserError(f"{line}: aliases repeat over {MAX_REPEATED} values, more than in any real file")


def load_pickle(self: Any, file: IO[bytes], **kwargs: Any) -> Any:
    """Replaces ``PickleHandler.load_from_fileobj``: numbers, text, containers, tensors and NumPy arrays of numbers.

    Raises:
        UserError: the file names anything else and checkpoints are not trusted, or it is damaged.
    """
    if trusted():
        return _upstream_load(self, file, **kwargs)
    data = file.read()
    name = str(getattr(file, "name", "the pickle"))
    try:
        found = _PlainUnpickler(io.BytesIO(data), name).load()
        limits.check_tree(found, len(data), name)
        return revive(found)
    except UserError:
        raise
    except Exception as error:  # on a crafted pickle the unpickler may raise anything
        raise UserError(f"{name} cannot be read: damaged or not a pickle ({type(error).__name__}: {error})") from error


_PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]  # not in typeshed


class _PlainUnpickler(_PythonUnpickler):
    """The unpickler of the standard library that is written in Python, restricted to placeholders.

    The one written in C allocates what a file declares before it reads the content.
    """

    dispatch: dict[int, Callable] = {
        code: action
        for code, action in _PythonUnpickler.dispatch.items()
        # Registered extensions bypass find_class; bytearray8 allocates any declared size.
        if code not in (pickle.EXT1[0], pickle.EXT2[0], pickle.EXT4[0], pickle.BYTEARRAY8[0])
    }
    allowed: dict[str, Any] = (
        BY_NAME
        | TENSORS
        | {
            "collections.OrderedDict": OrderedDict,
            **{
                f"{module}.{kind.__name__}": kind for module in ("builtins", "__builtin__") for kind in (set, frozenset)
            },
        }
    )

    def __init__(self, file: IO[bytes], name: str) -> None:
        super().__init__(file)
        self.file_name = name

    def find_class(self, module: str, name: str) -> Any:
        """The placeholder for a global; UserError for any that has none."""
        full = f"{module}.{name}"
        if full not in self.allowed:
            raise UserError(
                f"{self.file_name} refused: reading it would execute code from the file (it names {full}); nothing has "
                f"been executed. If you trust its origin, {HOW_TO_TRUST}",
                setting="trust_checkpoint",
            )
        return self.allowed[full]

    def load_build(self) -> None:
        """Set the state of an object, but not of a class or function, which is the shared placeholder itself."""
        if isinstance(self.stack[-2], (type, FunctionType)):
            raise pickle.UnpicklingError("state for a class or function")
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build


OVERRIDES = [
    Override(
        "mmengine.fileio.handlers.yaml_handler:YamlHandler.load_from_fileobj",
        load_yaml,
        "upstream calls the functions that tags name, and expands aliases without limit",
    ),
    Override(
        "mmengine.fileio.handlers.pickle_handler:PickleHandler.load_from_fileobj",
        load_pickle,
        "upstream unpickles proposal and result files",
    ),
]
