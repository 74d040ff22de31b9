"""BatchNorm per level under DDP: two real ranks."""

import re

from tests.support.commands import ROOT, ok, run_script


def test_gradients_are_averaged_and_statistics_are_of_each_rank():
    done = ok(run_script(ROOT / "tests" / "support" / "level_ranks.py", ranks=2))
    found = re.findall(r"^rank (\d) (.*): (\w+) (\w+) (\w+) (\w+)$", done.stdout, re.MULTILINE)
    assert sorted(row[:2] for row in found) == sorted((rank, way) for rank in "01" for way in ("one by one", "canvas"))
    for _, _, mean, statistics, same_weights, same_statistics in found:
        assert (mean, statistics, same_weights, same_statistics) == ("True", "True", "True", "False")
