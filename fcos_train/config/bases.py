"""The base configs that a config file names in ``_base_``."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from fcos_train.config.load import find_config, read_config


def bases_of(name: str, safe: bool = False) -> tuple[list[str], dict[str, Any]]:
    """The names in ``_base_`` of a config file, and the values of these configs together.

    Args:
        name: of the config; see :func:`fcos_train.config.load.find_config`. safe: read the bases as data.

    Returns:
        both empty for a config without bases, or whose ``_base_`` is no constant.

    Raises:
        UserError: a base cannot be read.
    """
    path = find_config(name)
    names = _named(path)
    values: dict[str, Any] = {}
    for base in names:
        values |= read_config(base if "::" in base else str(path.parent / base), safe)[0].to_dict()
    return names, values


def _named(path: Path) -> list[str]:
    """The constant that ``_base_`` is, as a list."""
    for statement in ast.parse(path.read_text(encoding="utf-8")).body if path.suffix == ".py" else ():
        if isinstance(statement, ast.Assign) and any(ast.unparse(target) == "_base_" for target in statement.targets):
            try:
                found = ast.literal_eval(statement.value)
            except ValueError:
                return []
            return [found] if isinstance(found, str) else [str(name) for name in found]
    return []
