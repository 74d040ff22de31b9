"""The command line in a process that has imported pydantic, as transformers, albumentations and wandb do.

cyclopts then has pydantic check every value and every default against its annotation. The checks are those of a small
stand-in, so that the test does not depend on the package.
"""

from __future__ import annotations

import importlib
import sys
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import pytest

from fcos_train.cli.generate import command
from fcos_train.cli.main import VERBS
from mmcv_overrides.errors import UserError


class ValidationError(ValueError):
    """Of pydantic."""


class TypeAdapter:
    """What cyclopts asks of pydantic: whether a value is of a type."""

    asked = 0

    def __init__(self, hint: Any) -> None:
        self.hint = hint

    def validate_python(self, value: Any) -> None:
        """Raise if the value is not of the type."""
        TypeAdapter.asked += 1
        if not admits(self.hint, value):
            raise ValidationError(f"{value!r} is not {self.hint}")


def admits(hint: Any, value: Any) -> bool:
    """Whether a value is of a type: plain classes, tuples, unions, Annotated, Any."""
    if get_origin(hint) is Annotated:
        return admits(get_args(hint)[0], value)
    if get_origin(hint) in (Union, UnionType):
        return any(admits(one, value) for one in get_args(hint))
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        kinds = kinds[:1] * len(value or ()) if kinds[-1] is Ellipsis else kinds
        return isinstance(value, tuple) and len(kinds) == len(value) and all(map(admits, kinds, value))
    return hint is Any or isinstance(value, NoneType if hint is None else hint)


@pytest.fixture
def train(monkeypatch):
    """The command line of ``train``, with pydantic in the process."""
    stand_in = SimpleNamespace(
        TypeAdapter=TypeAdapter, ValidationError=ValidationError, PydanticUserError=TypeError, __version__="2.14"
    )
    monkeypatch.setitem(sys.modules, "pydantic", stand_in)
    monkeypatch.setattr(TypeAdapter, "asked", 0)
    return command(importlib.import_module(VERBS["train"][0]).run, "fcos-train train")


GIVEN = {
    "a number": (["--max-iters", "3"], "max_iters", 3),
    "a flag without a value": (["--resume"], "resume", "auto"),
    "the word none": (["--pretrained", "none"], "pretrained", "none"),
    "several values": (["--classes", "a", "b"], "classes", ("a", "b")),
    "a switch": (["--no-validate"], "validate", False),
}


@pytest.mark.parametrize("row", GIVEN)
def test_options_are_read_as_without_it(row, train):
    words, name, value = GIVEN[row]
    assert getattr(train.parse(["config.py", *words]), name) == value
    assert TypeAdapter.asked > 20  # cyclopts did have the values checked


def test_faults_are_reported_together_in_our_words(train):
    with pytest.raises(UserError, match="--max-iters many: .*; --batch-size few: |--batch-size few: .*; --max-iters"):
        train.parse(["config.py", "--max-iters", "many", "--batch-size", "few"])
