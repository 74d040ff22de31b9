"""Finds the keyword arguments that a registered class really takes.

`legal_kwargs` reads the signatures along the method resolution order. `**kwargs` are followed only if the source passes
them to the next `__init__` and nowhere else. In all other cases the answer is None, unknown, and nothing is reported
for the class.
"""

import ast
import functools
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

QUOTED = re.compile(r"""['"]([A-Za-z_]\w*)['"]""")

# Classes that pass their `**kwargs` later to one method of mmengine's Runner.
KEPT_KWARGS = {"mmengine.hooks.checkpoint_hook.CheckpointHook": "save_checkpoint"}


@functools.cache
def legal_kwargs(target: Any) -> frozenset[str] | None:
    """Names that `target(**kwargs)` accepts; None if they are not certain.

    Args:
        target: a class, or a function that builds an object.
    """
    if not inspect.isclass(target):
        return _function_kwargs(target)
    names: set[str] = set()
    chain = _initialisers(target)
    while chain:
        init = chain[0].__dict__["__init__"]
        parameters = _parameters(init)
        if parameters is None:
            return None
        names |= _named(parameters)
        sink = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)
        if sink is None:
            break
        kept_for = KEPT_KWARGS.get(f"{chain[0].__module__}.{chain[0].__name__}")
        if kept_for:
            names |= signature_names(_runner_method(kept_for))
            break
        step = _follow_sink(init, sink)
        if step is None:
            return None
        names |= step.taken
        chain = _after(chain, step.parent)
    # A class without parents and arguments is the placeholder of a missing optional dependency.
    placeholder = not names and target.__bases__ == (object,)
    return None if placeholder else frozenset(names)


@functools.cache
def mentioned_names(target: Any) -> frozenset[str]:
    """Every quoted identifier in the modules of `target` and its bases, except those of torch and mmengine.

    The class that owns a dictionary may remove a key from it before the object is built (`cfg.pop('key')`). Such a key
    is valid although the signature of the object lacks it; its name is a string in the owner's module.
    """
    classes = inspect.getmro(target) if inspect.isclass(target) else (target,)
    modules = {getattr(c, "__module__", "") for c in classes}
    ours = {m for m in modules if not m.startswith(("torch", "builtins", "mmengine"))}
    return frozenset(name for m in ours for name in _quoted_in(m))


def signature_names(function: Any) -> frozenset[str]:
    """Names of the parameters of a function, except `self` and `**kwargs`."""
    parameters = inspect.signature(function).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is not p.VAR_KEYWORD) - {"self"}


def _runner_method(name: str) -> Any:
    from mmengine.runner import Runner

    return getattr(Runner, name)


def _function_kwargs(target: Any) -> frozenset[str] | None:
    parameters = _parameters(target)
    if parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return frozenset(_named(parameters))


def _initialisers(cls: type) -> list[type]:
    """The classes with an `__init__` of their own along the method resolution order, except object and nn.Module.

    These two raise on any keyword argument, so whatever reaches them is invalid.
    """
    ends = {("builtins", "object"), ("torch.nn.modules.module", "Module")}
    classes = [c for c in inspect.getmro(cls) if (c.__module__, c.__qualname__) not in ends]
    return [c for c in classes if "__init__" in c.__dict__]


def _after(chain: list[type], parent: str) -> list[type]:
    """The classes after the first of the chain that `super()` (parent "") or `super(parent, self)` calls."""
    names = [c.__name__ for c in chain]
    return chain[names.index(parent) + 1 :] if parent in names else chain[1:]


def _parameters(function: Any) -> list[inspect.Parameter] | None:
    # A decorated function may accept old names too, which its signature lacks.
    if hasattr(function, "__wrapped__"):
        return None
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None


def _named(parameters: list[inspect.Parameter]) -> set[str]:
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name for p in parameters if p.kind in by_name and p.name != "self"}


@dataclass(frozen=True)
class _Step:
    """An `__init__` passes its `**kwargs`, except the names `taken`, to `super(parent, self).__init__`."""

    parent: str
    taken: frozenset[str]


def _follow_sink(init: Callable, sink: str) -> _Step | None:
    """None if `**sink` is used for anything else than the next `__init__`."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(init)))
    except (OSError, TypeError, SyntaxError):
        return None
    taken: set[str] = set()
    parents: set[str] = set()
    explained = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _passes(node, sink):
            parent = _super_of(node)
            if parent is None:
                return None
            parents.add(parent)
            explained += 1
        name = _literal_access(node, sink)
        if name is not None:
            taken.add(name)
            explained += 1
    uses = sum(_is_name(node, sink) for node in ast.walk(tree))
    return _Step(parents.pop(), frozenset(taken)) if uses == explained and len(parents) == 1 else None


def _passes(call: ast.Call, sink: str) -> bool:
    """Whether the call has `**sink`."""
    return any(k.arg is None and _is_name(k.value, sink) for k in call.keywords)


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _super_of(call: ast.Call) -> str | None:
    """ "" for `super().__init__(...)`, "C" for `super(C, self).__init__(...)`, None for any other call."""
    function = call.func
    if not isinstance(function, ast.Attribute) or function.attr != "__init__":
        return None
    inner = function.value
    if not isinstance(inner, ast.Call) or not _is_name(inner.func, "super"):
        return None
    return inner.args[0].id if inner.args and isinstance(inner.args[0], ast.Name) else ""


def _literal_access(node: ast.AST, sink: str) -> str | None:
    """The name in `sink.pop('name')`, `sink.get('name')`, `sink['name']` or `'name' in sink`."""
    literal: ast.AST | None = None
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("pop", "get", "setdefault")
        and _is_name(node.func.value, sink)
        and node.args
    ):
        literal = node.args[0]
    elif isinstance(node, ast.Subscript) and _is_name(node.value, sink):
        literal = node.slice
    elif isinstance(node, ast.Compare) and len(node.comparators) == 1 and _is_name(node.comparators[0], sink):
        literal = node.left
    return literal.value if isinstance(literal, ast.Constant) and isinstance(literal.value, str) else None


@functools.cache
def _quoted_in(module: str) -> frozenset[str]:
    try:
        return frozenset(QUOTED.findall(inspect.getsource(sys.modules[module])))
    except (KeyError, OSError, TypeError):
        return frozenset()
