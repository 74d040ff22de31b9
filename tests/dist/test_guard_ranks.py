"""One rank with a bad loss and finite gradients: both ranks skip that step."""

import json

import torch

from tests.support.commands import ROOT, ok, run_script


def test_all_ranks_decide_alike():
    done = ok(run_script(ROOT / "tests" / "support" / "guard_ranks.py", ranks=2))
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    results = {row["rank"]: (row["bad"], row["weights"]) for row in found}
    assert sorted(results) == [0, 1] and results[0] == results[1]
    bad, weights = results[0]
    assert bad == [0.0, 1.0, 0.0]
    first, second, third = (torch.tensor(w) for w in weights)
    assert torch.equal(first, second)
    # gradient of both ranks averaged: (1 + 2) / 2 per weight, times lr 0.1
    torch.testing.assert_close(second - third, torch.full((2,), 0.15))
