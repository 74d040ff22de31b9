"""Needed and tested versions, and that all places that name them agree."""

import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from fcos_train.doctor import versions

ROOT = Path(__file__).resolve().parents[3]
PINNED = {
    requirement.name: next(iter(requirement.specifier)).version
    for line in (ROOT / "requirements" / "tested.txt").read_text().splitlines()
    if not line.startswith("#")
    for requirement in [Requirement(line)]
}


@pytest.fixture(params=["source", "metadata"])
def origin(request, monkeypatch):
    """The versions as the source tree tells them, and as the metadata of an installation does."""
    versions.requirements.cache_clear()
    if request.param == "metadata":
        texts = [str(requirement) for requirement in versions.requirements()]
        monkeypatch.setattr(metadata, "requires", lambda name: texts)
        monkeypatch.setattr(versions, "SOURCE", ROOT / "absent.toml")
        versions.requirements.cache_clear()
    yield request.param
    versions.requirements.cache_clear()


@pytest.mark.parametrize(
    "distribution", ["torch", "onedl-mmengine", "onedl-mmcv", "onedl_mmdetection", "opencv-python-headless"]
)
def test_tested_versions_are_those_of_the_requirements_file(origin, distribution):
    assert versions.tested(distribution) == PINNED[distribution.replace("_", "-")]


def test_needed_versions(origin):
    assert versions.needed("torch").contains("2.13.0") and not versions.needed("torch").contains("2.3.1")
    assert versions.python_needed().contains(".".join(map(str, sys.version_info[:3])))
    assert str(versions.needed("unheard-of")) == ""
    with pytest.raises(LookupError, match="filelock"):
        versions.tested("filelock")


def test_every_dependency_allows_its_tested_version():
    dependencies = [requirement for requirement in versions.requirements() if requirement.marker is None]
    untested = [str(one) for one in dependencies if not one.specifier.contains(PINNED.get(one.name, "0"))]
    assert untested in ([], ["setuptools>=68"])


def test_base():
    assert versions.base("2.13.0+cpu") == "2.13.0"
