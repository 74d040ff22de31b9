"""Reads the configuration that mmengine and mmdet keep as Python text inside a checkpoint, without running it.

``mmengine.Config.fromstring`` executes that text, so a checkpoint could carry a program past a weights-only reader.
Here the text is parsed, and only values are evaluated: literals, ``dict(...)``, ``list(...)``, ``tuple(...)``,
``set(...)``, ``range(...)``, containers of them, and names bound earlier in the same text. That is all
``Config.pretty_text`` writes.
:func:`fromstring` replaces ``Config.fromstring``, so that ``Runner.resume`` and ``BaseInferencer`` read it this way
too.
"""

from __future__ import annotations

import ast
import copy
import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from mmengine.config import Config

from mmcv_overrides.checkpoint.reading import HOW_TO_TRUST, trust_checkpoints, trusted
from mmcv_overrides.errors import Advice, UserError

MAX_CHARACTERS = 4_000_000
MAX_VALUES = 500_000  # names bound earlier can repeat a nested list indefinitely

TRUST = Advice(f"If you trust whoever made the file, {HOW_TO_TRUST}", "trust_checkpoint")
WAY_OUT = Advice(
    f"Give the config file yourself, or, if you trust whoever made the file, {HOW_TO_TRUST}", "trust_checkpoint"
)
INSIDE = "the configuration in it"
MAX_RANGE = 10_000
T = TypeVar("T")
_upstream = Config.fromstring


def parse(text: str, where: str, way_out: Advice = WAY_OUT) -> Config:
    """Turn the configuration text of a checkpoint into a Config; see :class:`Values`.

    Args:
        text: Python assignments as ``Config.pretty_text`` writes them.
        where: the file, for messages.
        way_out: what the user can do, for messages.

    Raises:
        UserError: the text holds anything but values; the message has the line.
    """
    values = Values(where, way_out=way_out).read(text)
    try:
        return Config(values)
    except KeyError as error:  # a reserved name of mmengine, such as `filename`
        raise way_out.error(f"{where}: {INSIDE} is refused by mmengine: {error}") from error


def fromstring(cfg_str: str, file_format: str) -> Config:
    """Replaces ``Config.fromstring``, which executes Python text: such text comes from checkpoints.

    Raises:
        UserError: ``file_format`` is ``.py``, the text contains more than values, and checkpoints are not trusted.
    """
    if file_format != ".py" or trusted():
        return _upstream(cfg_str, file_format)
    return parse(cfg_str, "Config.fromstring", TRUST)


def from_checkpoint(checkpoint: dict, where: str, trust: bool = False) -> Config | None:
    """The configuration in ``meta['cfg']`` (mmengine) or ``meta['config']`` (mmdet 2.x); None if there is none.

    Args:
        checkpoint: the loaded dictionary.
        where: the file, for messages.
        trust: execute text that contains more than values, as mmengine does.

    Raises:
        UserError: see :func:`parse`.
    """
    meta = checkpoint.get("meta")
    text = meta.get("cfg") or meta.get("config") if isinstance(meta, dict) else None
    if not isinstance(text, str) or not text.strip():
        return None
    try:
        return parse(text, where)
    except UserError:
        if not trust:
            raise
        with trust_checkpoints():
            return fromstring(text, ".py")


class Values:
    """Evaluates the few kinds of syntax that can only produce a value.

    Args:
        where: the file, for messages.
        what: what the text is in that file, for messages (``the configuration in it``).
        way_out: what the user can do, for messages.
    """

    calls: Mapping[str, Callable[..., Any]] = {"dict": dict, "list": list, "tuple": tuple, "set": set}

    def __init__(self, where: str, what: str = INSIDE, way_out: Advice = WAY_OUT) -> None:
        self.where, self.what, self.way_out = where, what, way_out
        # repr of these two floats is a bare name.
        self.names: dict[str, object] = {"inf": math.inf, "nan": math.nan}
        self.count = 0

    def read(self, text: str) -> dict[str, object]:
        """The assignments of configuration text, by name; nothing in the text is executed.

        Args:
            text: Python assignments as ``Config.pretty_text`` writes them.

        Raises:
            UserError: the text holds anything but values; the message has the line.
        """
        if len(text) > MAX_CHARACTERS:
            raise self.way_out.error(f"{self.where}: {self.what} has {len(text)} characters, more than any real one")
        try:
            return self.run(ast.parse(text))
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self.way_out.error(f"{self.where}: {self.what} cannot be read: {error}") from error

    def run(self, tree: ast.Module) -> dict[str, object]:
        """The assignments of a parsed text, by name; raises as :meth:`read`."""
        bound: dict[str, object] = {}
        for statement in tree.body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                continue  # a docstring
            if not isinstance(statement, ast.Assign):
                self._refuse(statement)
            value = self._value(statement.value)
            for target in statement.targets:
                if not isinstance(target, ast.Name) or target.id.startswith("__"):
                    self._refuse(statement)
                self.names[target.id] = bound[target.id] = value
        return bound

    def _value(self, node: ast.expr) -> Any:
        self._spend(1)
        handler: Callable[[Any], Any] | None = getattr(self, f"_{type(node).__name__.lower()}", None)
        if handler is None:
            self._refuse(node)
        return handler(node)

    def _constant(self, node: ast.Constant) -> Any:
        return node.value

    def _list(self, node: ast.List | ast.Tuple | ast.Set) -> list:
        return [self._value(item) for item in node.elts]

    def _tuple(self, node: ast.Tuple) -> tuple:
        return tuple(self._list(node))

    def _set(self, node: ast.Set) -> set:
        return self._hashed(node, lambda: set(self._list(node)))

    def _dict(self, node: ast.Dict) -> dict:
        keys = [key for key in node.keys if key is not None]
        if len(keys) < len(node.keys):  # {**other}
            self._refuse(node)
        pairs = [(self._value(k), self._value(v)) for k, v in zip(keys, node.values, strict=True)]
        return self._hashed(node, lambda: dict(pairs))

    def _name(self, node: ast.Name) -> Any:
        if node.id not in self.names:
            self._refuse(node)
        value = copy.deepcopy(self.names[node.id])
        self._spend(size_of(value))
        return value

    def _unaryop(self, node: ast.UnaryOp) -> int | float:
        number = self._value(node.operand)
        if not isinstance(node.op, (ast.USub, ast.UAdd)) or not isinstance(number, (int, float)):
            self._refuse(node)
        return -number if isinstance(node.op, ast.USub) else number

    def _call(self, node: ast.Call) -> Any:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "range" and name not in self.names:
            return self._range(node)
        if name not in self.calls or name in self.names or len(node.args) > 1:
            self._refuse(node)
        if any(keyword.arg is None for keyword in node.keywords) or (node.keywords and name != "dict"):
            self._refuse(node)
        arguments = [self._value(item) for item in node.args]
        if any(not isinstance(item, (dict, list, tuple, set)) for item in arguments):
            self._refuse(node)
        named = {str(keyword.arg): self._value(keyword.value) for keyword in node.keywords}
        return self._hashed(node, lambda: self.calls[name](*arguments, **named))

    def _range(self, node: ast.Call) -> list[int]:
        """``gpu_ids = range(0, 8)`` of mmdet 2.x, as a list."""
        bounds = [self._value(item) for item in node.args]
        if node.keywords or len(bounds) not in (1, 2) or any(type(bound) is not int for bound in bounds):
            self._refuse(node)
        numbers = range(*bounds)
        if len(numbers) > MAX_RANGE:
            self._refuse(node)
        self._spend(len(numbers))
        return list(numbers)

    def _hashed(self, node: ast.expr, make: Callable[[], T]) -> T:
        try:
            return make()
        except TypeError:  # an unhashable key, or pairs that are not pairs
            self._refuse(node)

    def _spend(self, amount: int) -> None:
        self.count += amount
        if self.count > MAX_VALUES:
            raise self.way_out.error(f"{self.where}: {self.what} expands to over {MAX_VALUES} values")

    def _refuse(self, node: ast.stmt | ast.expr) -> NoReturn:
        code = ast.unparse(node).splitlines()[0]
        raise self.way_out.error(
            f"{self.where}: line {node.lineno} of {self.what} is more than a value: `{code[:80]}`"
            f"{' (shortened)' if len(code) > 80 else ''}. It was not executed"
        )


def size_of(value: object) -> int:
    """Number of values in a tree, containers included."""
    if isinstance(value, dict):
        return 1 + sum(size_of(key) + size_of(item) for key, item in value.items())
    if isinstance(value, (list, tuple, set)):
        return 1 + sum(size_of(item) for item in value)
    return 1
