"""Text from files, safe to print: escaped control characters can neither forge log lines nor control a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mmcv_overrides.errors import UserError

MAX_NAME = 200  # characters of a class name

# C0 and C1 controls with DEL; line and paragraph separators; marks that reorder or hide text (Unicode TR36, section
# 3.1, "Trojan Source", CVE-2021-42574); halves of surrogate pairs, which cannot be encoded. The zero-width non-joiner
# and joiner (U+200C, U+200D) are kept, because Persian and Hindi words are spelt with them.
_INVISIBLE = "\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff"
_ALL = re.compile(f"[{_INVISIBLE}]")
_EXCEPT_LINES = re.compile(f"(?![\n\t])[{_INVISIBLE}]")


def printable(text: object) -> str:
    r"""``text`` as one line: control characters become ``\n``, ``\x1b`` or ``\u202e``."""
    return _ALL.sub(_escape, str(text))


def printable_lines(text: object) -> str:
    """As :func:`printable`, but line feeds and tabs are kept: for messages of several lines."""
    return _EXCEPT_LINES.sub(_escape, str(text))


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def require_names(names: Iterable[object], where: str) -> None:
    """Refuse class names that are not one line of printable text.

    Args:
        names: the class names.
        where: their file or setting, for the message.

    Raises:
        UserError: a name is not text, is too long, or has control characters.
    """
    for name in names:
        if not isinstance(name, str):
            raise UserError(
                f"{where}: the class name {printable(repr(name))[:MAX_NAME]} is not text; write it in quotes"
            )
        if len(name) > MAX_NAME:
            raise UserError(
                f"{where}: a class name has {len(name)} characters, more than {MAX_NAME}: {printable(name[:40])}..."
            )
        if _ALL.search(name):
            raise UserError(
                f"{where}: the class name '{printable(name)}' has control characters (shown escaped); rename the class"
            )
