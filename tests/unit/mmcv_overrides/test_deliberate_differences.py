"""The table "Deliberate differences" of docs/architecture.md, row by row."""

import datetime
import json
import re
from pathlib import Path

import mmengine
import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator

from mmcv_overrides import checkpoint, timer
from mmcv_overrides.errors import UserError
from mmcv_overrides.optimizer import StepOptimWrapper
from mmcv_overrides.optimizer_constructor import MergedOptimWrapperConstructor
from tests.support.toy_runs import Points, Toy, toy_runner

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "architecture.md"


class Metric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {"acc": 0.5}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One epoch of six batches and its validation, a log line every four: (folder, runner, log, records)."""
    folder = tmp_path_factory.mktemp("run")
    loader = dict(batch_size=4, dataset=Points(24), sampler=dict(type="DefaultSampler", shuffle=False))
    loader["collate_fn"] = dict(type="default_collate")
    runner = toy_runner(
        folder,
        default_hooks=dict(logger=dict(type="LoggerHook", interval=4, interval_exp_name=1)),
        loader=dict(dataset=Points(24)),
        wrapper=dict(paramwise_cfg=dict(bias_lr_mult=2.0)),
        val_dataloader=loader,
        val_cfg=dict(),
        val_evaluator=Evaluator([Metric()]),
    )
    runner.train()
    (log,) = folder.glob("*/*.log")
    (records,) = folder.glob("*.log.json")
    return folder, runner, log.read_text(), [json.loads(line) for line in records.read_text().splitlines()]


def log_lines(run):
    assert re.search(r"Epoch \[1\]\[4/6\]\tlr: 1\.000e-01, eta: 0:00:00, time: \d", run[2])


def last_iteration(run):
    assert [(r["mode"], r["iter"]) for r in run[3]] == [("train", 4), ("train", 6), ("val", 24)]


def one_line_per_evaluation(run):
    assert run[2].count("Epoch(val)") == 1 and "Exp name" not in run[2]


def metrics_over_iterations(run):
    (scalars,) = run[0].glob("*/vis_data/scalars.json")
    assert [json.loads(line)["step"] for line in scalars.read_text().splitlines()] == [4, 6, 6]


def gradient_norm(run):
    assert run[1].optim_wrapper.clip_grad_kwargs is None and run[3][0]["grad_norm"] > 0


def class_names(run):
    hooks = run[1].get_hooks_info()
    assert "ClockHook" in hooks and "IterTimerHook" not in hooks and "SafeCheckpointHook" in hooks


def clocks(run):
    assert timer.CLOCKS.train > 0 and "FPS" in run[2]


def merged_groups(run):
    wrapper = run[1].optim_wrapper
    assert len(wrapper.optimizer.param_groups) == 2 and wrapper.optimizer.param_groups[0]["fused"]
    assert len(wrapper.state_dict()["param_groups"]) == 8


def optimizer_state(run):
    state = torch.load(run[0] / "epoch_1.pth", weights_only=False)["optimizer"]
    assert state.keys() - {"state", "param_groups", "base_param_settings"} == {
        "loss_scaler",
        "optimizer_type",
        "param_names",
    }


def frozen_model(run):
    build = MergedOptimWrapperConstructor(dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1)))
    with pytest.raises(UserError, match="nothing to train"):
        build(Toy().requires_grad_(False))


def bad_step(run):
    net = Toy()
    wrapper = StepOptimWrapper(torch.optim.SGD(net.parameters(), lr=0.1))
    before = net.last.weight.detach().clone()
    wrapper.update_params(net(torch.ones(2, 4))["loss"] * float("nan"))
    assert torch.equal(net.last.weight, before)


def another_model(run):
    with pytest.raises(UserError, match="checkpoint"):
        checkpoint.load_checkpoint_to_model(torch.nn.Linear(1, 1), {"state_dict": Toy().state_dict()})


def absent_file(run):
    with pytest.raises(UserError, match="does not exist"):
        checkpoint.load_checkpoint_file(str(run[0] / "absent.pth"))


def resumed_file(run):
    assert checkpoint.find_latest_checkpoint(str(run[0])) == str(run[0] / "epoch_1.pth")
    assert (run[0] / "run.json").is_file() and (run[0] / "latest.pth").resolve() == run[0] / "epoch_1.pth"


def pickles_are_data(run):
    path = str(run[0] / "results.pkl")
    mmengine.dump([{"boxes": np.ones((1, 4)), "name": "a"}], path)
    assert mmengine.load(path)[0]["boxes"].tolist() == [[1.0] * 4]
    mmengine.dump([{"boxes": torch.arange(6.0).view(2, 3).t(), "net": torch.nn.Parameter(torch.ones(1))}], path)
    found = mmengine.load(path)[0]
    assert found["boxes"].tolist() == [[0, 3], [1, 4], [2, 5]] and found["net"].tolist() == [1.0]
    mmengine.dump([{"when": datetime.date(2026, 1, 2)}], path)
    with pytest.raises(UserError, match="datetime.date.*trust_checkpoints"):
        mmengine.load(path)
    with checkpoint.trust_checkpoints():
        assert mmengine.load(path)[0]["when"].year == 2026


ROWS = {
    "log lines": log_lines,
    "last iteration": last_iteration,
    "evaluations": one_line_per_evaluation,
    "axis of metrics": metrics_over_iterations,
    "gradient norm": gradient_norm,
    "names of classes": class_names,
    "time": clocks,
    "parameter groups": merged_groups,
    "optimizer state": optimizer_state,
    "frozen model": frozen_model,
    "step that is not finite": bad_step,
    "weights of another model": another_model,
    "missing checkpoint": absent_file,
    "automatic resume": resumed_file,
    "pickle files": pickles_are_data,
}


def test_the_table_has_the_rows_that_are_tested():
    table = DOCUMENT.read_text().split("## Deliberate differences")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+?) \|", table, re.MULTILINE)
    assert rows == ["what", *ROWS]


@pytest.mark.parametrize("row", ROWS)
def test_what_a_row_says(row, run):
    ROWS[row](run)
