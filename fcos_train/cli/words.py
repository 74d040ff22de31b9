"""What users may write on a command line beyond what a library takes.

All unknown flags are reported together, each with the nearest known one; flags have both spellings, with dashes and
with underscores; of a flag that is given twice the last value counts; a flag such as ``--resume`` may have no value.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

from fcos_train.cli.old_flags import replacement
from fcos_train.config.fields import Declared
from mmcv_overrides.errors import UserError

FLAG = re.compile(r"--?[A-Za-z]")  # not -1
HELP_FLAGS = ("--help", "-h")


def asks_for_help(words: Sequence[str]) -> bool:
    """One of the flags is ``--help``."""
    flags = words[: words.index("--")] if "--" in words else words
    return any(word in HELP_FLAGS for word in flags)


def arranged(words: Sequence[str], options: Iterable[Declared], name: str) -> list[str]:
    """The words with each flag in the spelling of its declaration (``--batch_size`` is ``--batch-size``).

    Values are not touched.

    Raises:
        UserError: unknown flags, all of them, each with the nearest known one.
    """
    known = {flag: one for one in options for flag in one.flags}
    result: list[str | None] = list(words)
    faults: list[str] = []
    last: dict[str, int] = {}
    for index, word in enumerate(words):
        if word == "--":
            break
        flag, equals, value = word.partition("=")
        if not FLAG.match(flag) or flag in HELP_FLAGS:
            continue
        one = next((known[spelling] for spelling in spellings(flag) if spelling in known), None)
        if one is None:
            advice = replacement(name, flag) or nearest(flag, {*known, *HELP_FLAGS}) or f"see {name} --help"
            faults.append(f"unknown flag {flag}; {advice}")
            continue
        if not equals and one.option.bare is not None and not _values(words, index, 1):
            equals, value = "=", one.option.bare
        result[index] = f"{one.flags[0]}{equals}{value}"
        if one.name in last and one.length != 0 and one.kind is not dict:
            earlier = last[one.name]
            count = 0 if one.switch or "=" in words[earlier] else one.length or 1
            for place in (earlier, *_values(words, earlier, count)):
                result[place] = None
        last[one.name] = index
    if faults:
        raise UserError("\n       ".join(faults))
    return [word for word in result if word is not None]


def _values(words: Sequence[str], index: int, count: int) -> range:
    """Where the values of the flag at ``index`` are: up to ``count`` words that are no flags."""
    end = index + 1
    while end < len(words) and end <= index + count and words[end] != "--" and not FLAG.match(words[end]):
        end += 1
    return range(index + 1, end)


def spellings(flag: str) -> tuple[str, ...]:
    """The ways to write a flag: as it is, with dashes, with underscores."""
    return flag, flag[:2] + flag[2:].replace("_", "-"), flag[:2] + flag[2:].replace("-", "_")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """``did you mean ...?`` where something known is near."""
    near = difflib.get_close_matches(word.replace("_", "-"), sorted(known), n=1)
    return f"did you mean {near[0]}?" if near else None
