"""Which versions this package needs and was tested with, from its own metadata.

The source tree's ``pyproject.toml`` is read where there is one: the metadata of an installation in place is as old as
the installation.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

PACKAGE = "fcos-train"
TESTED = "tested"  # the extra that pins what the dependencies leave open
SOURCE = Path(__file__).resolve().parents[2] / "pyproject.toml"


@cache
def requirements() -> tuple[Requirement, ...]:
    """All requirements, those of extras with a marker."""
    if SOURCE.is_file():
        project = tomllib.loads(SOURCE.read_text(encoding="utf-8"))["project"]
        found = [Requirement(text) for text in project["dependencies"]]
        for extra, texts in project["optional-dependencies"].items():
            found += [_of_extra(text, extra) for text in texts]
        return tuple(found)
    return tuple(Requirement(text) for text in metadata.requires(PACKAGE) or ())


def _of_extra(text: str, extra: str) -> Requirement:
    name, _, marker = text.partition(";")
    return Requirement(f'{name}; extra == "{extra}"' + (f" and ({marker})" if marker else ""))


def python_needed() -> SpecifierSet:
    """The versions of Python that are supported."""
    if SOURCE.is_file():
        return SpecifierSet(tomllib.loads(SOURCE.read_text(encoding="utf-8"))["project"]["requires-python"])
    return SpecifierSet(metadata.metadata(PACKAGE)["Requires-Python"])


def needed(distribution: str) -> SpecifierSet:
    """The versions that the dependencies allow."""
    for requirement in requirements():
        if _is(requirement, distribution) and requirement.marker is None:
            return requirement.specifier
    return SpecifierSet()


def tested(distribution: str) -> str:
    """The version that the tests were run with: the one that a dependency or the extra ``tested`` pins.

    Raises:
        LookupError: neither pins it.
    """
    for requirement in requirements():
        environment = {"extra": TESTED}
        if _is(requirement, distribution) and (not requirement.marker or requirement.marker.evaluate(environment)):
            pins = [one.version for one in requirement.specifier if one.operator == "=="]
            if pins:
                return pins[0]
    raise LookupError(f"no version of {distribution} is pinned in the metadata of {PACKAGE}")


def _is(requirement: Requirement, distribution: str) -> bool:
    return canonicalize_name(requirement.name) == canonicalize_name(distribution)


def base(version: str) -> str:
    """A version without its build: 2.13.0+cpu -> 2.13.0."""
    return Version(version).public
