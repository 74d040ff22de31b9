"""How an option is declared: once, as an annotated field of a dataclass.

::

    @dataclass(frozen=True)
    class DrawOptions(Options):
        images: Annotated[int | None, Option("images to draw", least=1, metavar="N", default="all")] = None

:mod:`fcos_train.cli.generate` makes the flag ``--images N`` and its help of it, and :class:`Options` refuses wrong
values, whether they come from the command line or from Python. This module and the option dataclasses import nothing
that takes long, so that all options of a command are checked before torch is imported. Checks are named functions: a
lambda in an annotation does not see the names of its module.
"""

from __future__ import annotations

import numbers
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from mmcv_overrides.errors import UserError

TRUTHS = {
    **dict.fromkeys(("true", "1", "yes", "y", "t"), True),
    **dict.fromkeys(("false", "0", "no", "n", "f"), False),
}
EXPECTED = {int: "must be a whole number", float: "must be a number", bool: "write true or false"}


@dataclass(frozen=True)
class Option:
    """What is known of an option beyond its type and its default value.

    Attributes:
        help: shown by ``--help``, without the default.
        default: the effective default in words, where the field's own default is None or empty.
        metavar: name of the value in the help.
        choices: the values that are allowed; empty: no such list.
        least, most: bounds of a number, both allowed.
        check: returns what is wrong with a value (of a list: with one element), or None.
        expected: what to answer to a value of another type or count, where the usual words do not help.
        flags: spellings on the command line, the first is the one of the help; empty: made of the field's name
            (``--no-...`` for a switch that is on by default).
        bare: the value of the flag alone; None: the flag needs a value.
        positional: given without a flag.
        hidden: accepted for old scripts, not shown by ``--help``.
        parse: from the words of the command line to the value of the field; None: by the field's type.
    """

    help: str
    default: str = ""
    metavar: str = ""
    choices: tuple[str, ...] = ()
    least: float | None = None
    most: float | None = None
    check: Callable[[Any], str | None] | None = None
    expected: str = ""
    flags: tuple[str, ...] = ()
    bare: str | None = None
    positional: bool = False
    hidden: bool = False
    parse: Callable[[Sequence[str]], Any] | None = None


@dataclass(frozen=True)
class Declared:
    """One option of a dataclass.

    Attributes:
        name: of the field. owner: the field that holds its dataclass, where that is nested in another one.
        kind: type of the value, of a list the type of its elements.
        length: None for one value, 0 for a list of any length, else the number of elements.
        default: of the field, MISSING when the option must be given.
        option: its :class:`Option`.
    """

    name: str
    owner: str
    kind: type
    length: int | None
    default: Any
    option: Option

    @property
    def switch(self) -> bool:
        """The flag takes no value."""
        return self.kind is bool and self.option.bare is None

    @property
    def flags(self) -> tuple[str, ...]:
        """All spellings on the command line; none for a positional option."""
        if self.option.positional:
            return ()
        prefix = "--no-" if self.switch and self.default is True else "--"
        return self.option.flags or (prefix + self.name.replace("_", "-"),)

    @property
    def shown(self) -> str:
        """How messages name it."""
        return self.flags[0] if self.flags else self.name

    @property
    def label(self) -> str:
        """How the help names a positional option."""
        return self.option.metavar or self.name.upper()

    def faults(self, value: Any) -> Iterator[str]:
        """What is wrong with a value of the field."""
        if value is None or self.kind is dict:
            return
        values = (value,) if self.length is None else tuple(value)
        if self.length and len(values) != self.length:
            words = " ".join(map(str, values))
            yield f"{self.shown} {words}: {self.option.expected or f'give {self.length} values'}"
            return
        for one in values:
            fault = self._fault(one)
            if fault:
                yield f"{self.shown} {one}: {fault}"

    def _fault(self, value: Any) -> str | None:
        option = self.option
        if self.kind in EXPECTED and not _is_a(value, self.kind):
            return option.expected or EXPECTED[self.kind]
        if self.kind is float and value != value:
            return option.expected or "must be a number, not nan"
        if option.choices and value not in option.choices:
            return f"choose from {', '.join(option.choices)}"
        too_small = option.least is not None and value < option.least
        if option.most is not None and (too_small or value > option.most):
            return f"must be between {option.least} and {option.most}"
        if too_small:
            return f"must be at least {option.least}"
        return option.check(value) if option.check else None


def _is_a(value: Any, kind: type) -> bool:
    """Whether a value is a whole number, a number or a truth value; True is no number."""
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    return isinstance(value, numbers.Integral if kind is int else numbers.Real)


@cache
def declared(kind: type) -> tuple[Declared, ...]:
    """The options of a dataclass in their order, inherited ones last; a nested one takes the place of its field."""
    hints = get_type_hints(kind, include_extras=True)
    found: list[Declared] = []
    own = kind.__dict__.get("__annotations__", {})
    for field in sorted(fields(kind), key=lambda field: field.name not in own):  # inherited ones come last
        hint, option = hints[field.name], None
        if get_origin(hint) is Annotated:
            hint, option = get_args(hint)
        if is_dataclass(hint):
            nested = declared(typing.cast(type, hint))
            found += [_within(inner, field.name, field.default) for inner in nested]
            continue
        assert isinstance(option, Option), f"{kind.__name__}.{field.name} declares no Option"
        default = field.default if field.default_factory is MISSING else field.default_factory()
        found.append(Declared(field.name, "", *_type(hint), default, option))
    return tuple(found)


def _within(inner: Declared, owner: str, holder: Any) -> Declared:
    """An option of the dataclass that is the default value of the field ``owner``."""
    return Declared(inner.name, owner, inner.kind, inner.length, getattr(holder, inner.name), inner.option)


def _type(hint: Any) -> tuple[type, int | None]:
    """Type of a value (of the first one that is not None in a union), and the length of a list of them."""
    if isinstance(hint, types.UnionType):
        hint = next(part for part in get_args(hint) if part is not type(None))
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        return parts[0], 0 if parts[-1] is Ellipsis else len(parts)
    return get_origin(hint) or hint, None


class Options:
    """Base of the option dataclasses: wrong values are refused when one is built."""

    def __post_init__(self) -> None:
        """Raises UserError with all faults in one message."""
        kind: type = type(self)
        found: list[str] = []
        for one in declared(kind):
            holder = getattr(self, one.owner) if one.owner else self
            found += one.faults(getattr(holder, one.name))
        found += self.conflicts()
        if found:
            raise UserError("; ".join(found))

    def conflicts(self) -> list[str]:
        """Faults that concern several options together."""
        return []


def existing(value: str | Path) -> str | None:
    """Check of a path: there is such a file or folder; addresses such as ``s3://...`` are not looked at."""
    return None if "://" in str(value) or Path(value).exists() else "no such file or folder"


def existing_file(value: str | Path) -> str | None:
    """Check of a path: there is such a file."""
    return None if Path(value).is_file() else "no such file"


def existing_folder(value: str | Path) -> str | None:
    """Check of a path: there is such a folder."""
    return None if Path(value).is_dir() else "no such folder"


def truth(words: Sequence[str]) -> bool | str:
    """``true`` or ``false`` in the spellings of the vendor's tools; another word stays as it is and is refused."""
    return TRUTHS.get(words[-1].lower(), words[-1])


def square(words: Sequence[Any]) -> tuple[Any, ...]:
    """Height and width; one number stands for both."""
    return (*words, *words) if len(words) == 1 else tuple(words)
