"""Reads configuration files as data (``--safe-config``): anything but values is refused, nothing is executed.

``Config.fromfile`` runs a ``.py`` file as a program. Here its text is parsed like the configuration in a checkpoint
(:mod:`mmcv_overrides.checkpoint.embedded_config`). In addition, the operations on values in shipped configurations are
evaluated: sums and products of numbers, concatenated texts and lists, elements, values of ``_base_``. YAML and JSON are
read by safe readers. Files that ``_base_`` names are read the same way, from any folder or as ``mmdet::folder/name``.
Only registered parts may be named.
"""

from __future__ import annotations

import ast
import copy
import json
import operator
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from fcos_train.config.vetting import check_config, run_custom_imports
from fcos_train.start import start
from mmcv_overrides.checkpoint.embedded_config import MAX_CHARACTERS, Values, size_of
from mmcv_overrides.data_files import load_yaml
from mmcv_overrides.errors import Advice, UserError

MAX_FILES = 50  # of one configuration, bases included
MAX_DEPTH = 20
MAX_NUMBER = 2**64
MAX_TEXT = 10_000  # characters of concatenated texts
WHAT = "the configuration"
WAY_OUT = Advice("Write it as plain values, or leave out --safe-config if you trust whoever wrote it")
# The same as _base_.x without the braces.
BASE_VALUE = re.compile(r"(?<!['\"])\{\{\s*(_base_\.[\w.]+)\s*\}\}(?!['\"])")
# What mmengine replaces in the text of a file before it reads it.
TEMPLATE = re.compile(r"\{\{\s*['\"]?\s*(\$|_base_|file(Dirname|Basename|BasenameNoExtension|Extname)\b)")


def read(path: Path) -> Config:
    """The configuration of a file and its bases; what it names is not looked at.

    Raises:
        UserError: anything but values (with file and line), or a base that cannot be read.
    """
    where = f"config {path}"
    reader = _Reader()
    try:
        values = reader.merged(Path(path), 0)
        return Config(values, cfg_text="\n".join(reader.texts), filename=str(path))
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:  # from mmengine's merging
        raise UserError(f"{where} cannot be read: {type(error).__name__}: {error}") from error


def check(config: Config, path: Path) -> None:
    """Refuse a configuration that names more than registered parts.

    Raises:
        UserError: a name that is not a registered part, or a module of another package in ``custom_imports``.
    """
    where = f"config {path}"
    start()
    run_custom_imports(config, where, False, WHAT, WAY_OUT)
    check_config(config.to_dict(), where, WHAT, WAY_OUT)


class _Reader:
    """One configuration: its file and bases, merged as ``Config.fromfile`` merges them."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def merged(self, path: Path, depth: int) -> dict:
        """The values of a file merged into those of its bases; ``depth`` is the number of files above it."""
        text = self._text(path, depth)
        below: dict = {}
        if path.suffix == ".py":
            text = BASE_VALUE.sub(r"\1", text)
        self._refuse_templates(path, text)
        for name in _bases(path, text):
            file, scope = _base(name, path)
            found = self.merged(file, depth + 1)
            doubled = sorted(below.keys() & found.keys())
            if doubled:
                raise UserError(f"config {path}: two of its bases define '{doubled[0]}'")
            below.update(Config._dict_to_config_dict(found, scope))
        values = _values(path, text, below)
        values.pop("_base_", None)
        return Config._merge_a_into_b(values, below)

    def _text(self, path: Path, depth: int) -> str:
        if len(self.texts) >= MAX_FILES or depth > MAX_DEPTH:
            raise UserError(
                f"config {path}: over {MAX_FILES} files or {MAX_DEPTH} levels of _base_, more than any real one"
            )
        if not path.is_file():
            raise UserError(f"config {path}: no such file (or a device, pipe or folder)")
        if path.stat().st_size > MAX_CHARACTERS:
            raise UserError(f"config {path} has {path.stat().st_size} bytes, more than any real one")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"config {path} cannot be read: {error}") from error
        self.texts.append(f"{path}\n{text}")
        return text

    def _refuse_templates(self, path: Path, text: str) -> None:
        template = TEMPLATE.search(text)
        if template:
            line = text.count("\n", 0, template.start()) + 1
            raise WAY_OUT.error(f"config {path}: line {line} of {WHAT} has a template (double braces)")


class _FileValues(Values):
    """Also evaluates, within bounds: arithmetic, concatenation, elements, attributes of ``_base_``."""

    operators: Mapping[type, Callable[[Any, Any], Any]] = {
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.Div: operator.truediv,
    }

    def __init__(self, path: Path, below: dict) -> None:
        super().__init__(f"config {path}", WHAT, WAY_OUT)
        self.names["_base_"] = self.below = below

    def _binop(self, node: ast.BinOp) -> Any:
        left, right = self._value(node.left), self._value(node.right)
        apply = self.operators.get(type(node.op))
        numbers = all(type(side) in (int, float) for side in (left, right))
        joins = type(node.op) is ast.Add and type(left) is type(right) and isinstance(left, (str, list, tuple))
        if apply is None or not (numbers or joins) or (type(node.op) is ast.Div and right == 0):
            self._refuse(node)
        value = apply(left, right)
        if (numbers and isinstance(value, int) and abs(value) > MAX_NUMBER) or (
            isinstance(value, str) and len(value) > MAX_TEXT
        ):
            self._refuse(node)
        self._spend(len(value) if joins else 1)
        return value

    def _subscript(self, node: ast.Subscript) -> Any:
        container, index = self._value(node.value), self._value(node.slice)
        try:
            return container[index]
        except (TypeError, LookupError):
            self._refuse(node)

    def _slice(self, node: ast.Slice) -> slice:
        return slice(*(None if part is None else self._value(part) for part in (node.lower, node.upper, node.step)))

    def _attribute(self, node: ast.Attribute) -> Any:
        names: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            names.append(inner.attr)
            inner = inner.value
        value: Any = self.below
        for name in reversed(names):
            if not isinstance(value, dict) or name not in value:
                self._refuse(node)
            value = value[name]
        if not isinstance(inner, ast.Name) or inner.id != "_base_":
            self._refuse(node)
        value = copy.deepcopy(value)
        self._spend(size_of(value))
        return value


def _bases(path: Path, text: str) -> list[str]:
    """The names in ``_base_``, which are needed before the other values of the file can be read."""
    if path.suffix == ".py":
        try:
            body = [node for node in ast.parse(text).body if _sets_base(node)][:1]
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise UserError(f"config {path} cannot be read: {error}") from error
        found = _FileValues(path, {}).run(ast.Module(body, type_ignores=[]))
    else:
        found = _values(path, text, {})
    bases = found.get("_base_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, (list, tuple)) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"config {path}: _base_ must be a file name or a list of them")
    return list(bases)


def _sets_base(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "_base_" for t in node.targets)


def _values(path: Path, text: str, below: dict) -> dict:
    where = f"config {path}"
    if path.suffix == ".py":
        found = _FileValues(path, below).read(text)
    elif path.suffix in (".yml", ".yaml"):
        with open(path, encoding="utf-8") as file:
            found = load_yaml(None, file)
    elif path.suffix == ".json":
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} cannot be read as JSON: {error}") from error
    else:
        raise UserError(f"{where}: a configuration is a .py, .yaml, .yml or .json file")
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise UserError(f"{where}: a configuration consists of named values")
    return found


def _base(name: str, path: Path) -> tuple[Path, str | None]:
    """The file that ``_base_`` of ``path`` names, and the scope of its parts."""
    from fcos_train.config.load import find_config

    if name.startswith("mmdet::"):
        return find_config(name), "mmdet"
    if "::" in name or "://" in name:
        raise WAY_OUT.error(f"config {path}: _base_ '{name}' is neither a file nor mmdet::folder/name")
    return path.parent / name, None
