"""scripts/run_peer_suites.py: what it reads from a report, and what it counts as a difference."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "run_peer_suites.py"
REPORT = """<testsuites><testsuite>
<testcase classname="tests.test_a.TestA" name="test_one"/>
<testcase classname="tests.test_a.TestA" name="test_two"><failure message="x"/></testcase>
<testcase classname="tests.test_a.TestA" name="test_two"/>
<testcase classname="tests.test_a" name="test_three"><skipped message="x"/></testcase>
<testcase classname="tests.test_b" name=""><error message="collection"/></testcase>
</testsuite></testsuites>"""


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("run_peer_suites", SCRIPT)
    module = sys.modules["run_peer_suites"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["run_peer_suites"]


def test_outcomes_of_a_report(script, tmp_path):
    (tmp_path / "report.xml").write_text(REPORT)
    found = script.outcomes(tmp_path / "report.xml")
    assert found == {
        "tests.test_a.TestA::test_one": "passed",
        "tests.test_a.TestA::test_two": "failed",
        "tests.test_a::test_three": "skipped",
        "tests.test_b::": "failed",
    }
    assert script.counts(found) == "1 / 2 / 1"


def test_only_what_is_not_listed_counts(script, capsys):
    suite = script.Suite("mmengine", "test_hooks")
    base = {"a": "passed", "b": "passed", "c": "passed", "d": "failed", "e": "failed"}
    ours = {"a": "passed", "b": "failed", "c": "skipped", "d": "failed", "e": "passed"}
    known = {"mmengine/test_hooks b": "on purpose", "mmengine/test_runner c": "of another suite"}
    assert script.compare(suite, base, ours, known) == ["mmengine/test_hooks c"]
    said = capsys.readouterr().out
    assert "b: failed; on purpose" in said and "c: skipped; NOT LISTED" in said and "with the overrides: e" in said


def test_the_list_of_differences_is_short_and_names_suites(script):
    known = script.known_differences()
    suites = {suite.name for suite in script.SUITES}
    assert all(entry.split(" ")[0] in suites and reason.strip() for entry, reason in known.items())
    mine = {re.sub(r"_\d+_\w+$", "", entry) for entry in known if entry.startswith("mmengine/")}
    assert 0 < len(mine) <= 8  # one of them has two parameter sets
