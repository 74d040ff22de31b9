"""BatchNorm per level under DDP: two real ranks."""

import re
import subprocess
import sys

from tests.support.commands import ROOT, environment, ok


def test_gradients_are_averaged_and_statistics_are_of_each_rank():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "tests.support.level_ranks"]
    done = ok(subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=290))
    found = re.findall(r"^rank (\d) (.*): (\w+) (\w+) (\w+) (\w+)$", done.stdout, re.MULTILINE)
    assert sorted(row[:2] for row in found) == sorted((rank, way) for rank in "01" for way in ("one by one", "canvas"))
    for _, _, mean, statistics, same_weights, same_statistics in found:
        assert (mean, statistics, same_weights, same_statistics) == ("True", "True", "True", "False")
