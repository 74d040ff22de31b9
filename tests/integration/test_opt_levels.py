"""Every level of precision through the real trainer: the same training up to the noise of its number format."""

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from fcos_train.engine.options import TrainOptions
from fcos_train.engine.run import train
from tests.support.commands import ROOT
from tests.support.toy_runs import named

STEPS = 30
TINY = ROOT / "configs" / "fcos" / "fcos_tiny_shapes.py"


class Run:
    """Losses of each step, the weights (fp32) at the start and the end, of one training.

    ``first`` is what the model computed with in the first step; hooks, ``before_train`` included, have run by then.
    """

    def __init__(self, folder, data, level, steps=STEPS, **options):
        run = self
        run.losses, run.first = [], {}

        @HOOKS.register_module(name="Watch", force=True)
        class Watch(Hook):
            def before_train_iter(self, runner, batch_idx, data_batch=None):
                if not run.first:
                    run.first = {k: v.detach().float().clone() for k, v in runner.model.named_parameters()}

            def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
                run.losses.append(outputs["loss"].item())

        folder.mkdir()
        config = folder / f"{folder.parent.name}_{folder.name}.py"
        config.write_text(f"_base_ = {str(TINY)!r}\ncustom_hooks = [dict(type='Watch')]\n")
        settings = dict(seed=0, batch_size=4, workers=0, validate=False, check=False, device="cpu", max_iters=steps)
        self.folder = folder
        runner = train(TrainOptions(str(config), str(data), str(folder), opt_level=level, **{**settings, **options}))
        self.weights = named(runner)

    @property
    def checkpoint(self):
        return str(self.folder / "latest.pth")


@pytest.fixture(scope="module")
def fresh(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fresh")
    return {level: Run(folder / level, shapes, level) for level in ("O0", "O1", "O2", "bf16")}


@pytest.fixture(scope="module")
def loaded(shapes, fresh, tmp_path_factory):
    """On a CPU bf16 is O1, bit for bit: tested once is enough."""
    folder = tmp_path_factory.mktemp("loaded")
    start = fresh["O0"].checkpoint
    return {level: Run(folder / level, shapes, level, 20, seed=1, load_from=start) for level in ("O0", "O1", "O2")}


def distance(one, two):
    return sum((one[k] - v).square().sum() for k, v in two.items()).sqrt().item()


@pytest.mark.parametrize(("start", "level"), [("fresh", "O1"), ("fresh", "O2"), ("fresh", "bf16"), ("loaded", "O1"), ("loaded", "O2")])
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
    init = dict(type="Pretrained", checkpoint=fresh["O0"].checkpoint, prefix="backbone.")
    run = Run(tmp_path / "O2", shapes, "O2", 2, cfg_options={"model.backbone.init_cfg": init})
    given = {k: v for k, v in fresh["O0"].weights.items() if k.startswith("backbone.") and k in run.weights}
    assert len(given) > 30
    drawn = {k: fresh["O0"].first[k] for k in given}
    # two steps of a warm-up move little; the drawn weights are twenty times as far away
    assert distance(run.weights, given) < 0.05 * distance(drawn, given)


def test_o2_resumes_bit_for_bit(shapes, fresh, tmp_path):
    Run(tmp_path / "a", shapes, "O2", 4)
    (tmp_path / "b").mkdir()
    resumed = Run(tmp_path / "b" / "rest", shapes, "O2", 8, resume=str(tmp_path / "a" / "latest.pth"))
    assert resumed.losses == fresh["O2"].losses[4:8]
