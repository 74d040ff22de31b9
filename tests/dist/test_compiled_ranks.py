"""torch.compile under DDP: two real ranks have the losses and weights of the uncompiled step."""

import re

import pytest

from tests.support.commands import ROOT, ok, run_script


def test_two_ranks_compile_what_they_would_run():
    done = ok(run_script(ROOT / "tests" / "support" / "compiled_ranks.py", ranks=2))
    found = re.findall(r"^rank (\d) \[(\S+), (\S+)\] \[(\S+), (\S+)\] (\w+) (\w+) (\d+)$", done.stdout, re.MULTILINE)
    assert sorted(row[0] for row in found) == ["0", "1"]
    for _, first, second, first_eager, second_eager, same, moved, graphs in found:
        assert float(first) == pytest.approx(float(first_eager), rel=1e-5)
        assert float(second) == pytest.approx(float(second_eager), rel=1e-5)
        assert (same, moved, graphs) == ("True", "True", "1")
    assert found[0][1] != found[1][1]  # ranks saw different images
