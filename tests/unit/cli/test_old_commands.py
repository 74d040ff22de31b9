"""Lines of the original guides that are written otherwise today: each is translated, or says what to write instead."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fcos_train.cli import old_flags
from fcos_train.cli.generate import command
from fcos_train.cli.main import VERBS, main
from tests.support.commands import ROOT

SCRIPTS = sorted(
    str(path.relative_to(ROOT)) for folder in ("scripts/ascend", "tools") for path in (ROOT / folder).rglob("*.py")
)
OLD = ("demo.py", "pthtar2onx.py", "setup.py", "fcos_train/__init__.py", *SCRIPTS)
SAID = "FCOS-Train needs Python 3.11 or newer; this is Python"


def verb(name: str):
    import importlib

    return command(importlib.import_module(VERBS[name][0]).run, f"fcos-train {name}")


@pytest.mark.parametrize("script", OLD, ids=lambda path: Path(path).name)
def test_an_old_python_can_read_the_script(script):
    ast.parse((ROOT / script).read_text(), feature_version=(3, 7))


@pytest.mark.parametrize("words", [["demo.py", "xxx.pth"], ["pthtar2onx.py"], ["-m", "fcos_train", "train", "x"]])
def test_an_old_python_is_told_what_is_needed(words):
    """With a Python 3.7 where there is one, else with one that says it is."""
    old = next(iter(sorted(Path.home().glob(".pyenv/versions/3.[789].*/bin/python"))), None)
    if old is None:
        program = (
            "import runpy, sys; sys.version_info = (3, 7, 5); sys.path.insert(0, '.'); sys.argv = sys.argv[1:]; "
            "runpy.run_module(sys.argv[1], run_name='__main__') if sys.argv[0] == '-m' "
            "else runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        start = [sys.executable, "-c", program]
    else:
        start = [str(old)]
    done = subprocess.run([*start, *words], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"error: {SAID} 3.")


def test_resume_from_is_resume():
    assert verb("train").parse(["x", "--resume-from", "demo.py"]).resume == "demo.py"
    assert verb("train").parse(["x", "--resume_from=demo.py"]).resume == "demo.py"


@pytest.mark.parametrize(
    ("name", "flag", "advice"),
    [(name, flag, text) for name, flags in old_flags.ADVICE.items() for flag, text in flags.items()],
)
def test_a_flag_of_the_past_names_its_replacement(name, flag, advice, capsys):
    assert main([name, "x", "y", flag.replace("-", "_").replace("__", "--", 1)]) == 2
    assert capsys.readouterr().err.endswith(f"; {advice}\n")
    flags = {spelling for one in verb(name).options for spelling in one.flags}
    assert flag not in flags
    named = {word.rstrip(".,") for word in re.findall(r"(?<![\w-])--[a-z][\w-]*", advice)}
    assert named - {"--nproc", "--nproc_per_node"} <= flags  # those are of the launcher and of torchrun


def test_the_build_requirements_are_those_of_the_project():
    lines = (ROOT / "requirements" / "build.txt").read_text().splitlines()
    named = [line for line in lines if line and not line.startswith("#")]
    assert named == re.search(r"\[build-system\]\nrequires = \[(.*)\]", (ROOT / "pyproject.toml").read_text())[
        1
    ].replace('"', "").split(", ")


def test_the_newest_checkpoint_is_drawn_with_when_none_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    newest = tmp_path / "work_dirs" / "mine" / "latest.pth"
    newest.parent.mkdir(parents=True)
    newest.write_bytes(b"x")
    seen = []
    monkeypatch.setattr("fcos_train.infer.demo.demo", seen.append)
    assert main(["demo", "--score-thr", "0.5"]) == 0
    assert (seen[0].checkpoint, seen[0].score_thr) == ("work_dirs/mine/latest.pth", 0.5)
    assert capsys.readouterr().out == "no checkpoint given: work_dirs/mine/latest.pth, the newest\n"
