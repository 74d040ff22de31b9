"""DDP lays its buckets out anew when weights change type (O2) or a hook unfreezes some: two real ranks."""

import re
import subprocess
import sys

from tests.support.commands import ROOT, environment, ok


def test_two_ranks_train_what_one_trains():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "tests.support.layout_ranks"]
    done = ok(subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=290))
    found = re.findall(r"rank (\d) (O\d) same (\w+) away (\S+) unfrozen moved (\d\.\d+e[+-]\d+)", done.stdout)
    assert sorted(row[:2] for row in found) == [("0", "O0"), ("0", "O2"), ("1", "O0"), ("1", "O2")]
    for _, level, same, away, moved in found:
        assert same == "True" and float(moved) > 0.1
        assert float(away) < {"O0": 1e-5, "O2": 0.1 * float(moved)}[level]
    assert "Grad strides do not match" not in done.stderr
