"""The command line of a verb, generated from the dataclass that its ``run`` takes.

:mod:`fcos_train.config.fields` says how options are declared; cyclopts makes a parser of them. Of the three
libraries that were tried, cyclopts alone raises its errors, so that they become one ``error: ...`` line, and has hidden
flags, aliases, lists as words (``--classes a b``) and switches. tyro prints a box and exits, and has no hidden flags;
jsonargparse has no aliases, and wants YAML lists and ``--check false``. :mod:`.words` adds what cyclopts lacks;
:mod:`.help_text` prints the help without the rich library, whose import takes as long as everything else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from fcos_train.cli.help_text import verb_help
from fcos_train.cli.words import arranged
from fcos_train.config.fields import Declared, declared
from mmcv_overrides.errors import UserError

if TYPE_CHECKING:
    from cyclopts import App, CycloptsError


@dataclass(frozen=True)
class Command:
    """The generated command line of one verb or step.

    Attributes:
        run: takes the options and returns the exit status.
        kind: the dataclass of the options. options: its fields.
        name: as users write it, for messages: ``fcos-train ascend om``.
    """

    run: Callable[[Any], int]
    kind: type
    options: tuple[Declared, ...]
    name: str

    def help(self) -> str:
        """The text of ``--help``: the docstring of ``run`` and all options."""
        return verb_help(self.name, inspect.getdoc(self.run) or "", self.options)

    def parse(self, words: Sequence[str]) -> Any:
        """The options that the words give.

        Raises:
            UserError: unknown flags, missing values, or values that are refused.
        """
        if not words and all(one.default is not MISSING for one in self.options):
            return self.kind()  # doctor runs even where cyclopts is broken
        words = arranged(words, self.options, self.name)
        try:
            from cyclopts import CycloptsError
        except ImportError as error:
            raise UserError(f"{error}; fix: pip install cyclopts") from None
        try:
            _, bound, _ = self.app().parse_args(words, exit_on_error=False, print_error=False)
        except CycloptsError as error:
            raise UserError(f"{_reason(error)} (see {self.name} --help)") from None
        return _build(self.kind, self.options, bound.arguments)

    def app(self) -> App:
        """The parser of cyclopts."""
        from cyclopts import App

        def parsed(*_: Any, **__: Any) -> None:
            """Only its signature counts."""

        parameters = sorted((_parameter(one) for one in self.options), key=lambda parameter: parameter.kind)
        parsed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        parsed.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app = App(name=self.name, help_flags=(), version_flags=())
        app.default(parsed)
        return app


def command(run: Callable[[Any], int], name: str) -> Command:
    """The command line of ``run(options: SomeOptions) -> int``."""
    kind = get_type_hints(run)["options"]
    return Command(run, kind, declared(kind), name)


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
    from cyclopts import Parameter

    option, optional = one.option, one.default is not MISSING
    many = one.length is not None or one.kind is dict
    kind: Any = one.kind if one.kind in (str, int, float, Path) or one.switch else str
    number = kind if kind in (int, float) else None
    # Once any module has imported pydantic, cyclopts has it check defaults and converted values against the annotation.
    scalar: Any = Any if number else kind
    kind = scalar
    if many:
        kind = tuple[(scalar,) * one.length if one.length and not option.parse else (scalar, ...)]  # type: ignore[misc]
    place: Any = inspect.Parameter.KEYWORD_ONLY
    if option.positional:
        place = inspect.Parameter.VAR_POSITIONAL if many else inspect.Parameter.POSITIONAL_ONLY
        kind = scalar
    told = Parameter(
        name=one.flags or one.label,
        negative=(),
        consume_multiple=(1, None) if many and not option.positional else None,
        converter=_converter(number, many) if number else None,
        required=not optional,
        allow_leading_hyphen=option.positional,  # "-"; unknown flags are refused before
    )
    default: Any = None if optional and place != inspect.Parameter.VAR_POSITIONAL else inspect.Parameter.empty
    if one.switch:
        default = False
    elif default is None:
        kind = kind | None if kind is not Any else kind
    return inspect.Parameter(one.name, place, default=default, annotation=Annotated[kind, told])


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


def _reason(error: CycloptsError) -> str:
    """What is wrong, in the words of the flags."""
    from cyclopts.exceptions import MissingArgumentError, UnusedCliTokensError

    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"unexpected argument '{error.unused_tokens[0]}'"
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        if not error.keyword and not error.argument.tokens:
            return f"{error.argument.name} is missing"
        count = max(error.argument.token_count()[0], 1)
        return f"{error.keyword or error.argument.name} needs {'a value' if count == 1 else f'{count} values'}"
    return str(error)
