"""The cost of every step of the real trainer on the simulated NPU: both heads, every precision, one rank and two.

The counts of a step reach from the end of one iteration to the end of the next, hooks and loader included; no log
line is due in between. The first step makes what is made once; of two ranks the second too: there
DistributedDataParallel orders its buckets anew, once in a run.
"""

import json
from pathlib import Path

import pytest

from tests.support.commands import ROOT, ok

CONFIGS = {"fcos": "exact.py", "fsaf": "exact_fsaf.py"}
LEVELS = {"fp32": ("O0", "1.0"), "static": ("O1", "32.0"), "dynamic": ("O1", "dynamic"), "bf16": ("bf16", "32.0")}
STEPS = 5  # the last one is not counted: it writes the log line at the end of the run
# Mean of the normalisers (FCOS), agreement on a non-finite step, and two buckets of gradients.
ALLREDUCES = {"fcos": 4, "fsaf": 3}


def counted(npu, shapes, folder: Path, head: str, level: str, ranks: int = 1) -> list[list[dict]]:
    """The rows of CountSteps of each rank, without the last step."""
    precision, scale = LEVELS[level]
    file = folder / "counts"
    command = [
        "train", ROOT / "tests" / "support" / CONFIGS[head], "--data-path", shapes, "--work-dir", folder / "run",
        "--device", "npu", "--seed", 1, "--workers", 0, "--batch-size", 2, "--max-iters", STEPS, "--no-validate",
        "--opt-level", precision, "--loss-scale", scale,
        "--cfg-options", "default_hooks.logger.interval=100",
        f"custom_hooks=[{{'type': 'CountSteps', 'file': '{file}'}}]",
    ]  # fmt: skip
    ok(npu.run(*command) if ranks == 1 else npu.run_ranks(ranks, *command))
    rows = [[json.loads(line) for line in Path(f"{file}.{rank}").read_text().splitlines()] for rank in range(ranks)]
    assert all(len(steps) == STEPS for steps in rows)
    return [steps[:-1] for steps in rows]


@pytest.fixture(scope="module")
def alone(npu, shapes, tmp_path_factory):
    """(head, level) -> steps of a run on one rank; each run is done once."""
    made = {}

    def get(head: str, level: str) -> list[dict]:
        if (head, level) not in made:
            (made[head, level],) = counted(npu, shapes, tmp_path_factory.mktemp(f"{head}-{level}"), head, level)
        return made[head, level]

    return get


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("head", CONFIGS)
def test_a_steady_step_never_waits(alone, head, level):
    first, *steps = alone(head, level)
    assert [step["events"] for step in steps] == [{"h2d:blocking": 2}] * len(steps)  # images and objects
    assert [step["new_signatures"] for step in steps] == [[]] * len(steps)
    assert all(step["launches"] == steps[0]["launches"] for step in steps)
    assert all(step["not_native"] == [] for step in [first, *steps])


@pytest.mark.parametrize("head", CONFIGS)
def test_half_precision_adds_casts_and_no_more_than_the_scale(alone, head):
    """A dynamic scale costs a few launches more than a static one, and the host reads nothing."""
    static, dynamic = (sum(alone(head, level)[-1]["launches"].values()) for level in ("static", "dynamic"))
    assert 0 < dynamic - static <= 12


@pytest.mark.parametrize("head", CONFIGS)
def test_two_ranks_add_their_collectives_and_nothing_else(npu, shapes, tmp_path, alone, head):
    single = alone(head, "fp32")[-1]["launches"]
    both = counted(npu, shapes, tmp_path, head, "fp32", ranks=2)
    for _, second, *steps in both:
        assert second["syncs"] == 2 and second["events"]["collective:broadcast"] == 2  # the order of the buckets
        assert steps[0]["new_signatures"] == second["new_signatures"] == []
        for step in steps:
            assert step["events"] == {"collective:allreduce": ALLREDUCES[head], "h2d:blocking": 2}
            assert step["not_native"] == []
            names = {*step["launches"], *single}
            more = {name: step["launches"].get(name, 0) - single.get(name, 0) for name in names}
            more = {name: difference for name, difference in more.items() if difference}
            # DDP writes each gradient, divided, into its bucket; FCOS divides its normalisers by the ranks
            assert set(more) <= {"aten::mul.out", "aten::div.Tensor"} and 40 < more["aten::mul.out"] < 60
            assert more.get("aten::div.Tensor", 0) <= 1
    assert both[0][2:] == both[1][2:]  # equal on both ranks
