"""The command line of a verb, generated from the dataclass that its ``run`` takes.

:mod:`fcos_train.config.fields` says how options are declared; cyclopts makes flags, conversion and help of them.
Of the three libraries that were tried (cyclopts, tyro, jsonargparse) cyclopts alone raises its errors, so that they
become one line ``error: ...`` (tyro prints a box and exits), and has hidden flags (tyro has none), aliases, lists as
words (``--classes a b``) and switches (jsonargparse has no aliases, and wants YAML lists and ``--check false``). It
imports as fast as tyro. What it lacks is in :func:`arranged`: all unknown flags are reported together, each with the
nearest known one; of a flag that is given twice the last value counts; a flag such as ``--resume`` may have no value.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from cyclopts import App, Parameter

from fcos_train.config.fields import Declared, declared
from mmcv_overrides.errors import UserError

FLAG = re.compile(r"--?[A-Za-z]")  # not -1
HELP_FLAGS = ("--help", "-h")


@dataclass(frozen=True)
class Command:
    """The generated command line of one verb or step.

    Attributes:
        app: of cyclopts; calling it returns what ``run`` returns.
        options: all that it takes.
        name: as users write it, for messages.
    """

    app: App
    options: tuple[Declared, ...]
    name: str

    def arranged(self, words: Sequence[str]) -> list[str]:
        """The arguments as cyclopts takes them, see :func:`arranged`."""
        return arranged(words, self.options, self.name)


def command(run: Callable[[Any], int], name: str) -> Command:
    """Generate the command line of ``run(options: SomeOptions) -> int``; its docstring is the description.

    Args:
        name: with the words before it, as in ``fcos-train ascend om``.
    """
    kind = get_type_hints(run)["options"]
    options = declared(kind)

    def call(*words: Any, **given: Any) -> int:
        positional = [one for one in options if one.option.positional]
        if positional and positional[-1].length is not None:
            words = (*words[: len(positional) - 1], words[len(positional) - 1 :])
        given |= {one.name: word for one, word in zip(positional, words, strict=False)}
        return run(_build(kind, options, given))

    parameters = sorted((_parameter(one) for one in options), key=lambda parameter: parameter.kind)
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    paragraphs = (inspect.getdoc(run) or "").split("\n\n")
    app = App(
        name=name.split()[-1],
        usage=" ".join([name, "[OPTIONS]", *(one.shown.upper() for one in options if one.option.positional)]),
        help="\n\n".join(" ".join(text.split()) for text in paragraphs),
        help_flags=HELP_FLAGS,
        version_flags=(),
    )
    app.default(call)
    return Command(app, options, name)


def _build(kind: type, options: Iterable[Declared], given: dict[str, Any]) -> Any:
    """The dataclass of what was given; the rest keeps its defaults.

    Raises:
        UserError: words that cannot be parsed and values that are refused, in one message.
    """
    values: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    faults: list[str] = []
    for one in options:
        if one.name in given:
            try:
                value = _value(one, given[one.name])
            except UserError as error:
                faults.append(str(error))
                continue
            (nested.setdefault(one.owner, {}) if one.owner else values)[one.name] = value
    for owner, inner in nested.items():
        values[owner] = replace(kind.__dataclass_fields__[owner].default, **inner)  # type: ignore[attr-defined]
    try:
        built = kind(**values)
    except UserError as error:
        faults.append(str(error))
    if faults:
        raise UserError("; ".join(faults))
    return built


def _value(one: Declared, given: Any) -> Any:
    """The value of the field from what cyclopts made of the words."""
    if one.option.parse:
        return one.option.parse(given if isinstance(given, tuple) else (given,))
    return not given if one.switch and one.default is True else given


def _parameter(one: Declared) -> inspect.Parameter:
    """How cyclopts is told of an option."""
    option, optional = one.option, one.default is not MISSING
    many = one.length is not None or one.kind is dict
    kind: Any = one.kind if one.kind in (str, int, float, Path) or one.switch else str
    scalar: Any = kind
    if many:
        kind = tuple[(scalar,) * one.length if one.length and not option.parse else (scalar, ...)]  # type: ignore[misc]
    place: Any = inspect.Parameter.KEYWORD_ONLY
    if option.positional:
        place = inspect.Parameter.VAR_POSITIONAL if many else inspect.Parameter.POSITIONAL_ONLY
        kind = scalar
    told = Parameter(
        name=one.flags or one.shown.upper(),
        help=described(one),
        negative=(),
        metavar=_metavar(one),
        show=not option.hidden,
        show_default=False,
        consume_multiple=(1, None) if many and not option.positional else None,
        converter=_converter(scalar, many) if scalar in (int, float) else None,
        required=not optional,
        allow_leading_hyphen=option.positional,  # "-"; unknown flags are refused before
    )
    default: Any = None if optional and place != inspect.Parameter.VAR_POSITIONAL else inspect.Parameter.empty
    if one.switch:
        default = False
    return inspect.Parameter(one.name, place, default=default, annotation=Annotated[kind, told])


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


def _converter(kind: type, many: bool) -> Callable[[Any, Sequence[Any]], Any]:
    """Converts numbers; a word that is none stays a word, for the checks of the dataclass to refuse with the rest."""

    def convert(word: str) -> Any:
        try:
            return kind(word)
        except ValueError:
            return word

    def converter(_: Any, tokens: Sequence[Any]) -> Any:
        values = tuple(convert(token.value) for token in tokens)
        return values if many else values[-1]

    return converter


def arranged(words: Sequence[str], options: Iterable[Declared], name: str) -> list[str]:
    """Flags in the spelling of the declaration (``--batch_size`` is ``--batch-size``); values are not touched.

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
            faults.append(f"unknown flag {flag}; {nearest(flag, {*known, *HELP_FLAGS}) or f'see {name} --help'}")
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
