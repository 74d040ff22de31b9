"""The benchmark of training curves: what makes two runs comparable, and the figures it reports."""

import copy

import pytest

from mmcv_overrides.errors import UserError
from tests.support.commands import ROOT


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import training_curves

    return training_curves


def run(score, losses):
    metrics = {"bbox_mAP": score, "bbox_mAP_50": 2 * score}
    return {"weights": "ab", "images": [[1, 2], [3, 4]], "losses": [{"loss": v} for v in losses], "metrics": metrics}


@pytest.fixture
def records():
    return {
        ("eager", 0): run(0.25, [2.0, 1.0]),
        ("mmdet", 0): run(0.24, [2.0, 1.0]),
        ("eager", 7): run(0.20, [3.0, 1.0]),
        ("mmdet", 7): run(0.23, [3.3, 1.1]),
    }


def test_figures(script, records):
    text, figures = script.table(records, [0, 7])
    assert figures["mAP_difference"] == {0: pytest.approx(0.01), 7: pytest.approx(-0.03)}
    assert (figures["mean"], figures["largest"]) == (pytest.approx(-0.01), pytest.approx(0.03))
    assert text.splitlines()[1].split() == [
        "0",
        "0.2500",
        "0.2400",
        "+0.0100",
        "0.5000",
        "0.4800",
        "1.5000",
        "1.5000",
        "0.0e+00",
    ]
    assert text.splitlines()[2].endswith("9.1e-02")
    assert text.endswith("ours - mmdet: mean -0.0100, largest 0.0300; the aim is 0.02")


def test_figures_of_the_control(script, records):
    records["nudged", 0], records["nudged", 7] = run(0.20, [2.0, 1.0]), run(0.25, [3.3, 1.1])
    text, figures = script.table(records, [0, 7])
    assert figures["control"]["mAP_difference"] == {0: pytest.approx(-0.04), 7: pytest.approx(0.02)}
    assert text.splitlines()[1].split()[-2:] == ["0.2000", "-0.0400"]
    assert text.endswith("mmdet nudged - mmdet: mean -0.0100, largest 0.0400")


@pytest.mark.parametrize(("what", "other"), [("weights", "cd"), ("images", [[1, 2], [4, 3]])])
def test_runs_that_differ_from_the_start_are_not_compared(script, records, what, other):
    script.check_alike(records, [0, 7])
    changed = copy.deepcopy(records)
    changed["mmdet", 7][what] = other
    with pytest.raises(RuntimeError, match=f"seed 7: the runs differ in their {what}"):
        script.check_alike(changed, [0, 7])


@pytest.mark.parametrize("head", ["fcos", "fsaf"])
def test_config(script, head):
    args = script.parse(["--head", head, "--iters", "100", "--size", "96", "80", "--lr", "0.003", "--batch", "2"])
    cfg = script.config(args)
    from mmdet.registry import MODELS
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    cfg.model.backbone.init_cfg = None
    assert type(MODELS.build(cfg.model).bbox_head).__name__ == {"fcos": "FCOSHead", "fsaf": "FSAFHead"}[head]
    assert cfg.train_cfg.max_epochs == cfg.train_cfg.val_interval == 4
    assert cfg.optim_wrapper.optimizer.lr == 0.003 and cfg.train_dataloader.batch_size == 2
    scales = [
        step.scale
        for loader in ("train", "val", "test")
        for step in cfg[f"{loader}_dataloader"].dataset.pipeline
        if step.type == "Resize"
    ]
    assert scales == [(96, 80)] * 3


def test_steps_that_are_no_whole_epochs(script):
    with pytest.raises(UserError, match="a multiple of 25"):
        script.parse(["--iters", "30"])
