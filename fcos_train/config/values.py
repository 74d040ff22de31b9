"""Values of ``--cfg-options``: numbers, booleans, lists, tuples, dicts and None; anything else is text."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any

from mmcv_overrides.errors import UserError

WORDS = {"true": True, "false": False, "none": None, "null": None}


def parse_value(text: str) -> Any:
    """One value: ``[1,2]`` and ``1,2`` are lists, ``(a,b)`` is a tuple of texts."""
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
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
