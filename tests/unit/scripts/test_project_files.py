"""Dockerfiles, workflows, templates and the citation, as text: what they name exists."""

from __future__ import annotations

import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

import fcos_train

ROOT = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def pinned(name: str) -> str:
    return re.search(rf"^{name}==(\S+)", (ROOT / "requirements" / "tested.txt").read_text(), re.MULTILINE)[1]


def test_there_is_one_dockerfile_for_each_kind_of_device():
    assert [path.stem for path in DOCKERFILES] == ["ascend", "cpu", "cuda"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.stem)
def test_a_dockerfile_copies_and_installs_what_exists(path):
    text = path.read_text().replace("\\\n", " ")
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (.*)$", text, re.MULTILINE)]
    names = [name for row in copied for name in row]
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert names and all((ROOT / name).exists() for name in names)
    assert all(any(fnmatch(name, pattern) for pattern in allowed) for name in names)
    # All that setup.py and pyproject.toml need to build the package.
    assert {"pyproject.toml", "setup.py", "README.md", "LICENSE", "configs", "fcos_train", "mmcv_overrides"} <= set(
        names
    )
    [extras] = re.findall(r"'\.\[([\w,]+)\]'", text)
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    for version in re.findall(r"torch==([\d.]+)", text):
        assert version == pinned("torch")
    assert text.index("\nARG BASE") < text.index("\nFROM ${BASE}")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_what_exists(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert set(workflow["jobs"]) == {"suite", "docs", "wheel"}
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 60
        for step in job["steps"]:
            named = re.findall(r"(?:bash|-r) (\S+)", step.get("run", ""))
            assert [name for name in named if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_an_issue_template_is_a_form(path):
    form = yaml.safe_load(path.read_text())
    if path.stem == "config":
        assert form == {"blank_issues_enabled": True}
        return
    assert form["name"] and form["description"]
    identifiers = [part["id"] for part in form["body"]]
    assert len(identifiers) == len(set(identifiers)) >= 3
    assert all(part["attributes"]["label"] for part in form["body"])


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["authors"] == [{"name": "The FCOS-Train authors"}]
    assert str(citation["version"]) == fcos_train.__version__ and citation["license"] == PROJECT["license"]


def test_the_packages_of_the_site_are_those_of_the_extra():
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)$", (ROOT / "requirements" / "docs.txt").read_text(), re.MULTILINE))
    ranges = [
        re.fullmatch(r"([\w-]+)>=([\d.]+),<(\d+)", text).groups() for text in PROJECT["optional-dependencies"]["docs"]
    ]
    assert [name for name, _, _ in ranges] == list(pins)

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(".")]

    assert all(numbers(low) <= numbers(pins[name]) < numbers(high) for name, low, high in ranges)
