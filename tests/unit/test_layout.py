"""The documents name what is there, and files keep to the rules of the layout. Reads files only."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("fcos_train", "mmcv_overrides")
FOLDERS = (*PACKAGES, "tests", "benchmarks", "configs", "scripts")
# Words that were used figuratively; a native reader looks for streets and buildings.
FIGURATIVE = re.compile(r"\b(road|house|in vain|had from|nobody's business)\b", re.IGNORECASE)


def modules() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def test_the_architecture_has_a_row_for_each_package():
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `([\w/]+)/` \|", text, re.MULTILINE)
    there = {str(path.parent.relative_to(ROOT)) for path in modules() if path.name == "__init__.py"}
    assert sorted(rows) == sorted(there - {"fcos_train"})  # the trainer itself is the sum of its packages


def test_the_tree_of_the_readme_names_what_is_there():
    tree = (ROOT / "README.md").read_text().split("## Files")[1].split("```")[1]
    parents: dict[int, str] = {}
    missing = []
    for line in filter(str.strip, tree.splitlines()):
        if len(line) - len(line.lstrip()) > 12:  # a description goes on
            continue
        depth = (len(line) - len(line.lstrip())) // 4
        names = re.split(r"\s{3,}", line.strip())[0].split()
        parent = "".join(parents[level] for level in range(depth))
        parents[depth] = names[0]
        missing += [parent + name for name in names if not (ROOT / (parent + name)).exists()]
    assert missing == []


@pytest.mark.parametrize("document", ["README.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))])
def test_files_that_a_document_names_exist(document):
    text = (ROOT / document).read_text()
    named = set(re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w/.-]+\.(?:py|sh|json|md))`", text))
    links = {target for target in re.findall(r"\]\(([^)#:]+)\)", text)}
    there = {name for name in named if (ROOT / name).exists()} | {
        target for target in links if ((ROOT / document).parent / target).exists()
    }
    assert (named | links) - there == set()


def test_files_are_neither_long_nor_tiny():
    """A package's ``__init__`` and the module that users import in their configs may be short."""
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in modules()}
    assert {name: count for name, count in lines.items() if count > 400} == {}
    short = {name for name, count in lines.items() if count < 15 and not name.endswith("__init__.py")}
    assert short == {"mmcv_overrides/auto.py"}


def test_no_figurative_words():
    texts = [*modules(), *(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md"), *(ROOT / "tests").rglob("*.py")]
    texts += [*(ROOT / "scripts").rglob("*.sh"), *(ROOT / "test").glob("*.sh"), *(ROOT / "configs").rglob("*.py")]
    found = {
        str(path.relative_to(ROOT)): FIGURATIVE.findall(path.read_text()) for path in texts if path != Path(__file__)
    }
    assert {name: words for name, words in found.items() if words} == {}
