"""Every level of precision through the real trainer: the same training up to the noise of its number format."""

import pytest
import torch

from tests.support.trainings import Training

STEPS = 16
SMALL = {"train_dataloader.dataset.pipeline.2.scale": (64, 48)}  # px; bf16 is emulated on many processors


@pytest.fixture(scope="module")
def fresh(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fresh")
    return {
        level: Training(folder / level, shapes, level, STEPS, cfg_options=SMALL) for level in ("O0", "O1", "O2", "bf16")
    }


@pytest.fixture(scope="module")
def loaded(shapes, fresh, tmp_path_factory):
    """On a CPU bf16 is O1, bit for bit: tested once is enough."""
    folder = tmp_path_factory.mktemp("loaded")
    start = fresh["O0"].checkpoint
    options = {"seed": 1, "load_from": start, "cfg_options": SMALL}
    return {level: Training(folder / level, shapes, level, 10, **options) for level in ("O0", "O1", "O2")}


def distance(one, two):
    return sum((one[k] - v).square().sum() for k, v in two.items()).sqrt().item()


@pytest.mark.parametrize(
    ("start", "level"), [("fresh", "O1"), ("fresh", "O2"), ("fresh", "bf16"), ("loaded", "O1"), ("loaded", "O2")]
)
def test_losses_and_weights_are_those_of_fp32(request, start, level):
    runs = request.getfixturevalue(start)
    run, reference = runs[level], runs["O0"]
    assert run.losses == pytest.approx(reference.losses, rel=0.01)
    assert distance(run.weights, reference.weights) < 0.5 * distance(reference.first, reference.weights)
    # O2 rounds weights where O1 rounds copies of them: not another amount of noise
    assert distance(run.weights, reference.weights) < 1.25 * distance(runs["O1"].weights, reference.weights)


@pytest.mark.parametrize("start", ["fresh", "loaded"])
def test_o2_begins_with_the_rounded_weights_of_fp32(request, start):
    runs = request.getfixturevalue(start)
    first, expected = runs["O2"].first, runs["O0"].first
    halves = {k for k, v in first.items() if not torch.equal(v, expected[k])}
    assert len(halves) > 20 and not [k for k in halves if "bn" in k or "norm" in k]
    assert all(torch.equal(first[k], expected[k].bfloat16().float()) for k in halves)


def test_o2_keeps_a_pretrained_backbone(shapes, fresh, tmp_path):
    init = dict(_delete_=True, type="Pretrained", checkpoint=fresh["O0"].checkpoint, prefix="backbone.")
    config = f"model = dict(backbone=dict(init_cfg={init}))"
    run = Training(tmp_path / "O2", shapes, "O2", 2, config, cfg_options=SMALL)
    given = {k: v for k, v in fresh["O0"].weights.items() if k.startswith("backbone.") and k in run.weights}
    assert len(given) > 30
    drawn = {k: fresh["O0"].first[k] for k in given}
    # two steps of a warm-up move little; the drawn weights are ten times as far away
    assert distance(run.weights, given) < 0.1 * distance(drawn, given)


def test_o2_resumes_bit_for_bit(shapes, fresh, tmp_path):
    Training(tmp_path / "a", shapes, "O2", 4, cfg_options=SMALL)
    last = str(tmp_path / "a" / "latest.pth")
    resumed = Training(tmp_path / "b", shapes, "O2", 8, resume=last, cfg_options=SMALL)
    assert resumed.losses == fresh["O2"].losses[4:8]
