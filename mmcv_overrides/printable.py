"""Text from files as it may be shown: control characters escaped, so that it can forge no log line and steer no terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mmcv_overrides.errors import UserError

MAX_NAME = 200  # characters of a class name

# C0 and C1 controls with DEL; line and paragraph separators; marks that reorder or hide text (Unicode TR36, section 3.1,
# "Trojan Source", CVE-2021-42574); halves of surrogate pairs, which no encoding of a terminal has. The zero-width joiner
# and non-joiner (U+200C, U+200D) stay: Persian and Hindi words are spelt with them.
_INVISIBLE = "\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff"
_ALL = re.compile(f"[{_INVISIBLE}]")
_BUT_LINES = re.compile(f"(?![\n\t])[{_INVISIBLE}]")


def printable(text: object) -> str:
    r"""One line: every control character as ``\n``, ``\x1b`` or ``\u202e``."""
    return _ALL.sub(_escape, str(text))


def printable_lines(text: object) -> str:
    """As :func:`printable`, but line feeds and tabs stay: for whole messages, as tables have several lines."""
    return _BUT_LINES.sub(_escape, str(text))


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def require_names(names: Iterable[object], where: str) -> None:
    """Refuse class names that are no text of one visible line.

    Args:
        where: what holds them, for the message.

    Raises:
        UserError: a name is no text, empty of visible characters, too long, or has control characters.
    """
    for name in names:
        if not isinstance(name, str):
            raise UserError(
                f"{where}: the class name {printable(repr(name))[:MAX_NAME]} is no text; write it in quotes"
            )
        if len(name) > MAX_NAME:
            raise UserError(
                f"{where}: a class name has {len(name)} characters, more than {MAX_NAME}: {printable(name[:40])} and so on"
            )
        if _ALL.search(name):
            raise UserError(
                f"{where}: the class name '{printable(name)}' has control characters (shown escaped); rename the class"
            )
