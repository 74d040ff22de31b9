"""Values of ``--cfg-options``: numbers, booleans, lists, tuples, dicts and None; anything else is text."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from mmcv_overrides.errors import UserError

WORDS = {"true": True, "false": False, "none": None, "null": None}


class _DictCalls(ast.NodeTransformer):
    """``dict(type='EMAHook', ...)``, the way configs are written, as a literal. Other calls are left as they are."""

    def visit_Call(self, node: ast.Call) -> ast.AST:  # noqa: N802  the name that ast calls
        """A call of ``dict`` with keywords only becomes the dict that it returns."""
        self.generic_visit(node)
        named = all(keyword.arg is not None for keyword in node.keywords)
        if not (isinstance(node.func, ast.Name) and node.func.id == "dict" and named and not node.args):
            return node
        keys: list[ast.expr | None] = [ast.Constant(keyword.arg) for keyword in node.keywords]
        return ast.Dict(keys, [keyword.value for keyword in node.keywords])


def parse_value(text: str) -> Any:
    """One value: ``[1,2]`` and ``1,2`` are lists, ``(a,b)`` is a tuple of texts, ``dict(a=1)`` is a dict."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        return ast.literal_eval(_DictCalls().visit(ast.parse(text.strip(), mode="eval")))
    except (ValueError, SyntaxError):
        pass
    bare = text.strip()
    if bare[:1] + bare[-1:] in ("[]", "()") or "," in bare:
        inner = bare.strip("[]()")
        items = [parse_value(item.strip()) for item in inner.split(",") if item.strip()]
        return tuple(items) if bare.startswith("(") else items
    return text


def parse_cfg_options(pairs: Sequence[str]) -> dict[str, Any]:
    """``["a.b=1", "c=[2,3]"]`` -> ``{"a.b": 1, "c": [2, 3]}``.

    Raises:
        UserError: a pair without ``=``.
    """
    bad = [pair for pair in pairs if "=" not in pair or pair.startswith("=")]
    if bad:
        raise UserError(f"--cfg-options {' '.join(bad)}: write key=value")
    return {key: parse_value(value) for key, value in (pair.split("=", 1) for pair in pairs)}
