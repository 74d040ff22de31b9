"""Two gloo ranks: what rank 0 meets, all ranks know; random states of each rank are kept apart."""

import pytest
import torch

from tests.support.commands import ROOT, ok, run_script


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    ok(run_script(ROOT / "tests" / "support" / "checkpoint_ranks.py", folder, ranks=2))
    return [torch.load(folder / f"rank{r}.pt", weights_only=True) for r in range(2)]


def test_every_rank_gets_the_answer_or_the_error_of_rank_0(ranks):
    for found in ranks:
        assert found["value"] == ("value", 7)
        assert found["user"] == ("UserError", "disk full")
        assert found["nan"] == ("NonFiniteWeights", "nan")
    assert ranks[0]["bug"] == ("KeyError", "'x'")
    assert ranks[1]["bug"] == ("RuntimeError", "rank 0 failed: KeyError: 'x'")


def test_each_rank_gets_its_own_random_state_back(ranks):
    assert ranks[0]["same"] and ranks[1]["same"]
    assert ranks[0]["drawn"] != ranks[1]["drawn"]
