"""DDP lays its buckets out anew when weights change type (O2) or a hook unfreezes some: two real ranks."""

import re

from tests.support.commands import ROOT, ok, run_script


def test_two_ranks_train_what_one_trains():
    done = ok(run_script(ROOT / "tests" / "support" / "layout_ranks.py", ranks=2))
    found = re.findall(r"rank (\d) (O\d) same (\w+) away (\S+) unfrozen moved (\d\.\d+e[+-]\d+)", done.stdout)
    assert sorted(row[:2] for row in found) == [("0", "O0"), ("0", "O2"), ("1", "O0"), ("1", "O2")]
    for _, level, same, away, moved in found:
        assert same == "True" and float(moved) > 0.1
        assert float(away) < {"O0": 1e-5, "O2": 0.1 * float(moved)}[level]
    assert "Grad strides do not match" not in done.stderr
