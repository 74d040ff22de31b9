"""The text of ``--help``, laid out as argparse does it."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import MISSING

from fcos_train.config.fields import Declared

LEFT = 26  # columns of the names
HELP_ROW = ("--help, -h", "show this text and exit")


def group_help(name: str, description: str, verbs: Mapping[str, str], flags: Mapping[str, str]) -> str:
    """The help of a command that has verbs or steps."""
    kind = "STEP" if " " in name else "VERB"
    parts = {f"{kind.lower()}s": verbs.items(), "options": [HELP_ROW, *flags.items()]}
    return _laid_out(f"{name} {kind} ...", description, parts)


def verb_help(name: str, description: str, options: Iterable[Declared]) -> str:
    """The help of a verb or step: what it takes, hidden options left out."""
    shown = [one for one in options if not one.option.hidden]
    positional = [one for one in shown if one.option.positional]
    flags = [one for one in shown if not one.option.positional]
    rows = [(" ".join(filter(None, (", ".join(one.flags), _metavar(one)))), described(one)) for one in flags]
    parts = {
        "arguments": [(one.label, described(one)) for one in positional],
        "options": [*rows, HELP_ROW],
    }
    return _laid_out(" ".join([name, *(one.label for one in positional), "[OPTIONS]"]), description, parts)


def _laid_out(usage: str, description: str, parts: Mapping[str, Iterable[tuple[str, str]]]) -> str:
    """Usage, description, and for each part its names at the left and their meaning at the right."""
    width = min(max(shutil.get_terminal_size().columns, 60), 120)
    paragraphs = [textwrap.fill(" ".join(text.split()), width) for text in description.split("\n\n")]
    lines = [f"usage: {usage}", *(line for text in paragraphs for line in ("", text))]
    for title, rows in parts.items():
        rows = list(rows)
        left = min(max((len(name) for name, _ in rows), default=0), LEFT)
        lines += ["", f"{title}:"] if rows else []
        for name, meaning in rows:
            first, *others = textwrap.wrap(meaning, width - left - 4, break_on_hyphens=False, break_long_words=False)
            lines += [f"  {name}", f"{'':{left}}    {first}"] if len(name) > left else [f"  {name:{left}}  {first}"]
            lines += [f"{'':{left}}    {line}" for line in others]
    return "\n".join(lines)


def _metavar(one: Declared) -> str | None:
    """The value in the help: ``[CKPT]`` may be left out, of ``NAME ...`` there may be several."""
    text = one.option.metavar
    if one.option.bare is not None:
        return f"[{text}]"
    return f"{text} ..." if text and (one.length == 0 or one.kind is dict) else text or None


def described(one: Declared) -> str:
    """The help of an option with its choices and its effective default."""
    option, text = one.option, one.option.help
    if option.choices and not all(choice in text for choice in option.choices):
        text += f": {', '.join(option.choices)}"
    default = option.default
    if not default and not (one.default in (None, ()) or one.kind is bool or one.default is MISSING):
        values = one.default if isinstance(one.default, tuple) else (one.default,)
        default = " ".join(map(str, values))
    if one.default is MISSING and not option.positional:
        return f"{text} (required)"
    return f"{text} (default: {default})" if default else text
