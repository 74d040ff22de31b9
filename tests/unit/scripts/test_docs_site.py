"""The pages of the documentation site, and the commands on them."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fcos_train.cli.generate import command
from fcos_train.cli.main import VERBS
from scripts.docs_pages import OF_ROOT, moved, write_pages

ROOT = Path(__file__).resolve().parents[3]
ROW = re.compile(r"^\| (`.*|.*`.*) \| `([^`]+)` \| .* \|$", re.MULTILINE)
BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)
PAGES = ("coming-from", "quickstart")  # in both languages


class _Loader(yaml.SafeLoader):
    """Of mkdocs.yml, whose only function is the one that makes anchors."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)


def nav() -> list[str]:
    def pages(node):
        if isinstance(node, str):
            return [node]
        return [page for inner in (node if isinstance(node, list) else node.values()) for page in pages(inner)]

    return pages(yaml.load((ROOT / "mkdocs.yml").read_text(), Loader=_Loader)["nav"])


def test_links_are_those_of_one_folder(tmp_path):
    for name in (*OF_ROOT, "docs/a.md", "tests/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    readme = (
        "![x](docs/images/x.svg) [a](docs/a.md#part), [s](SECURITY.md) [t](tests/README.md) [w](https://a.example/b)"
    )
    assert moved(readme, tmp_path, tmp_path) == (
        "![x](images/x.svg) [a](a.md#part), [s](security.md) t [w](https://a.example/b)"
    )
    page = "[r](../README.md) [zh](../README.zh.md) [a](a.md) [here](#part) [out](../../other.md)"
    assert moved(page, tmp_path / "docs", tmp_path) == "[r](index.md) [zh](index.zh.md) [a](a.md) [here](#part) out"


def test_every_page_is_in_the_navigation(tmp_path):
    pages = write_pages(tmp_path / "site")
    assert sorted(nav()) == pages and len(set(nav())) == len(nav())
    assert {name.removesuffix(".zh.md") + ".md" for name in pages if name.endswith(".zh.md")} <= set(pages)


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs (the extra docs) is not installed")
def test_the_site_builds_without_a_warning():
    subprocess.run(
        ["bash", str(ROOT / "scripts" / "build_docs.sh")], check=True, env={**os.environ, "PYTHON": sys.executable}
    )
    assert "FCOS-Train" in (ROOT / "build" / "site" / "index.html").read_text()


def rows(page: str) -> list[tuple[str, str]]:
    """The commands of a page: theirs and ours."""
    return ROW.findall((ROOT / "docs" / page).read_text())


def test_the_languages_have_the_same_commands():
    english, chinese = rows("coming-from.md"), rows("coming-from.zh.md")
    assert len(english) > 30 and [ours for _, ours in english] == [ours for _, ours in chinese]
    code = re.compile(r"`([^`]+)`")
    assert [code.findall(theirs) for theirs, _ in english] == [code.findall(theirs) for theirs, _ in chinese]


def documented() -> list[str]:
    """Every command line of fcos-train on these pages and on the one about fine-tuning."""
    lines = [ours for _, ours in rows("coming-from.md")]
    lines += re.findall(r"^\| .* \| `(fcos-train [^`]+)`", (ROOT / "README.zh.md").read_text(), re.MULTILINE)
    for name in ("quickstart.md", "quickstart.zh.md", "fine-tuning.md", "containers.md"):
        text = (ROOT / "docs" / name).read_text().replace("\\\n", " ")
        lines += [line for block in BLOCK.findall(text) for line in block.splitlines() if line]
    return list(dict.fromkeys(re.sub(r"^docker run .*? fcos-train:\w+", "fcos-train", line) for line in lines))


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """Files and folders of the names on the pages: options are checked when they are read."""
    monkeypatch.chdir(tmp_path)
    for name in ("CKPT", "model.onnx", "FILE", "image.jpg", "X.jpg", "video.mp4"):
        (tmp_path / name).write_bytes(b"x")
    for name in ("DIR", "images", "W"):
        (tmp_path / name).mkdir()


@pytest.mark.parametrize("line", [line for line in documented() if line.startswith("fcos-train ")])
def test_a_command_of_the_pages_is_accepted(line, desk):
    _, verb, *words = shlex.split(line, comments=True)
    module = importlib.import_module(VERBS[verb][0])
    if not hasattr(module, "STEPS"):
        command(module.run, f"fcos-train {verb}").parse(words)


def test_other_commands_of_the_pages_name_scripts_that_exist():
    others = [line for line in documented() if not line.startswith(("fcos-train ", "source ", "export ", "docker "))]
    named = [word for line in others for word in shlex.split(line, comments=True) if word.endswith((".sh", ".py"))]
    assert len(named) >= 4 and [name for name in named if not (ROOT / name).is_file()] == []
