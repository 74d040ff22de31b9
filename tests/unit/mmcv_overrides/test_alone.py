"""The overrides in a project of mmengine that knows nothing of the trainer: runs of its own kinds."""

import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import CheckpointHook, IterTimerHook, LoggerHook, RuntimeInfoHook
from mmengine.optim import AmpOptimWrapper
from mmengine.runner import EpochBasedTrainLoop, LogProcessor, Runner
from torch.utils.data import Sampler

from mmcv_overrides import checkpoint, json_log, loop, optimizer, seams, text_log, timer
from mmcv_overrides.checkpoint import mmengine_functions
from mmcv_overrides.errors import UserError
from mmcv_overrides.loss_scale import LossScale
from mmcv_overrides.timer import batch_size
from tests.support.toy_runs import Points, Toy, toy_runner


def logged(folder, *positional, **options):
    """Train; returns the runner, the lines of the text log and the records of the JSON log."""
    runner = toy_runner(folder, *positional, **{"default_hooks": dict(logger=dict(type="LoggerHook")), **options})
    runner.train()
    (text,) = folder.glob("*/*.log")
    (records,) = folder.glob("*.log.json")
    return runner, text.read_text().splitlines(), [json.loads(line) for line in records.read_text().splitlines()]


class OwnProcessor(LogProcessor):
    """A user's own, in mmengine's form."""


OWN_PROCESSORS = {
    "none": {},
    "without a type": dict(log_processor=dict(window_size=5, by_epoch=True)),
    "subclass": dict(log_processor=OwnProcessor()),
}


@pytest.mark.parametrize("kind", OWN_PROCESSORS)
def test_any_log_processor_gives_records_of_one_kind(tmp_path, kind):
    runner, lines, records = logged(tmp_path, epochs=2, **OWN_PROCESSORS[kind])
    assert type(runner.log_processor) is (OwnProcessor if kind == "subclass" else text_log.ContractLogProcessor)
    assert [(r["mode"], r["epoch"], r["step"]) for r in records] == [("train", 1, 4), ("train", 2, 8)]
    assert all(isinstance(r["loss"], float) and r["lr"] == 0.1 for r in records)
    assert sum("loss: " in line for line in lines) == 2


class Metric(BaseMetric):
    values: dict = {}

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(self.values)


METRICS = {
    "acc": (0.5, 0.5, "acc: 0.5000"),
    "count": (3, 3, "count: 3"),
    "int64": (np.int64(7), 7, "int64: 7"),
    "float32": (np.float32(0.25), 0.25, "float32: 0.2500"),
    "none": (float("nan"), "nan", "none: nan"),
    "of": ({"a": np.float64(0.1), "b": [1, 2]}, {"a": 0.1, "b": [1, 2]}, "of: {'a': "),
    "text": ("| a | 0.5 |", "| a | 0.5 |", "text: | a | 0.5 |"),
    "rows": (np.arange(3), [0, 1, 2], "[0 1 2]"),
    "tensor": (torch.tensor([1.5, 2.5]), [1.5, 2.5], "tensor([1.5000, 2.5000])"),
}


def test_metrics_of_every_type_are_logged(tmp_path):
    Metric.values = {name: value for name, (value, *_) in METRICS.items()}
    loader = dict(batch_size=4, dataset=Points(), sampler=dict(type="DefaultSampler", shuffle=False))
    loader["collate_fn"] = dict(type="default_collate")
    validation = dict(val_dataloader=loader, val_cfg=dict(), val_evaluator=Evaluator([Metric()]))
    runner, lines, records = logged(tmp_path, **validation)
    (record,) = [r for r in records if r["mode"] == "val"]
    text = "\n".join(lines).split("Epoch(val)")[1]
    for name, (_, written, printed) in METRICS.items():
        assert record[name] == written, name
        assert printed in text, name
    assert record["epoch"] == 1 and record["iter"] == 16 and "step" not in record
    # mmengine's own files, by the names that mmdet's analyze_logs.py expects
    for file in ("scalars.json", f"{runner.timestamp}.json"):
        train, val = map(json.loads, (tmp_path / runner.timestamp / "vis_data" / file).read_text().splitlines())
        assert {"loss", "lr", "epoch", "iter", "time"} <= train.keys() and train["step"] == train["iter"] == 4
        assert val["val/acc"] == 0.5 and val["val/count"] == 3 and not {"epoch", "iter", "val/text"} & val.keys()


def test_a_loop_by_iterations_logs_at_its_interval(tmp_path):
    """Six lines in sixty iterations of ten batches a pass: not one for every iteration after the first pass."""
    cfg = dict(type="IterBasedTrainLoop", max_iters=60)
    loader = dict(dataset=Points(40))
    _, lines, records = logged(
        tmp_path, train_cfg=cfg, loader=loader, log_processor=dict(type="LogProcessor", by_epoch=False)
    )
    assert [r["iter"] for r in records] == [10, 20, 30, 40, 50, 60]
    assert [line.split("Iter ")[1].split("\t")[0] for line in lines if "Iter [" in line][-1] == "[60/60]"


def test_ignore_last_is_obeyed(tmp_path):
    hooks = dict(logger=dict(type="LoggerHook", interval=3, ignore_last=True))
    assert [r["iter"] for r in logged(tmp_path, epochs=2, default_hooks=hooks)[2]] == [3, 3]


class TwoSteps(Toy):
    def train_step(self, data, optim_wrapper):
        for wrapper in optim_wrapper.values():
            wrapper.update_params(self(**self.data_preprocessor(data, True))["loss"])
        return {"loss": torch.tensor(1.5)}


def test_several_optimizers_have_a_rate_each(tmp_path):
    model = TwoSteps()
    wrappers = {
        name: optimizer.StepOptimWrapper(torch.optim.SGD(getattr(model, name).parameters(), lr=lr))
        for name, lr in (("backbone", 0.1), ("last", 0.02))
    }
    before = [p.detach().clone() for p in model.parameters()]
    _, lines, records = logged(tmp_path, model, optim_wrapper=wrappers)
    assert records[-1]["backbone.lr"] == 0.1 and records[-1]["last.lr"] == 0.02 and records[-1]["loss"] == 1.5
    assert any("backbone.lr: 1.000e-01, last.lr: 2.000e-02, eta: " in line for line in lines)
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_without_a_timer_there_are_no_times(tmp_path):
    hooks = dict(logger=dict(type="LoggerHook"), timer=None)
    _, lines, records = logged(tmp_path, default_hooks=hooks)
    assert "time" not in records[0] and any("lr: 1.000e-01, loss: " in line for line in lines)


class Frames(Sampler):
    """(video, frame), as samplers of tracking data yield them."""

    def __init__(self, dataset, **kwargs):
        self.indices = [(video, frame) for video in range(4) for frame in range(4)]

    def __iter__(self):
        return iter(self.indices)

    def __len__(self):
        return len(self.indices)


class Videos(Points):
    def __getitem__(self, index):
        return {"x": self.points[4 * index[0] + index[1]] + torch.rand(())}


def test_a_sampler_may_yield_tuples(tmp_path):
    runner = toy_runner(tmp_path, loader=dict(dataset=Videos(), sampler=dict(type=Frames)))
    runner.train()
    assert runner.iter == 4
    seeds = [loop.draw_seed(1, 2, index) for index in (3, (3, 4), (4, 3), "a", -1)]
    assert len(set(seeds)) == 5 and loop.draw_seed(1, 2, (3,)) == seeds[0]


# ---- the table holds for every way to name a part ----


def test_parts_given_as_classes_or_not_at_all_are_ours(tmp_path):
    hooks = dict(
        logger=dict(type=LoggerHook, interval=3),
        checkpoint=dict(type=CheckpointHook),
        timer=dict(type=IterTimerHook),
        runtime_info=dict(type=RuntimeInfoHook),
    )
    wrapper = dict(type=AmpOptimWrapper, optimizer=dict(type=torch.optim.SGD, lr=0.1), dtype="bfloat16")
    runner = toy_runner(tmp_path, default_hooks=hooks, optim_wrapper=wrapper, train_cfg=dict(type=EpochBasedTrainLoop))
    runner._train_loop["max_epochs"] = 1
    assert {type(hook) for hook in runner.hooks} >= {
        json_log.ContractLoggerHook,
        checkpoint.SafeCheckpointHook,
        timer.ClockHook,
        text_log.DeferredRuntimeInfoHook,
    }
    runner.train()
    assert type(runner.optim_wrapper) is optimizer.AmpStepOptimWrapper and runner.optim_wrapper.opt_level == "O1"
    assert type(runner.train_loop) is loop.ResumableEpochLoop
    assert next(h for h in runner.hooks if isinstance(h, LoggerHook)).interval == 3
    (log,) = tmp_path.glob("*/*.log")
    assert "HOOKS:LoggerHook -> mmcv_overrides.json_log.ContractLoggerHook: " in log.read_text()


@pytest.mark.parametrize(("by_epoch", "kind"), [(True, "ResumableEpochLoop"), (False, "StoppableIterLoop")])
def test_a_loop_named_by_by_epoch(tmp_path, by_epoch, kind):
    length = dict(max_epochs=1) if by_epoch else dict(max_iters=4)
    runner = toy_runner(tmp_path, train_cfg=dict(by_epoch=by_epoch, **length))
    assert type(runner.build_train_loop(runner._train_loop)).__name__ == kind


def test_a_subclass_of_a_replaced_class_stays_what_it_is():
    class Mine(LoggerHook):
        pass

    from mmengine.registry import HOOKS

    assert type(HOOKS.build(dict(type=Mine, interval=7))) is Mine
    assert seams.replaced[LoggerHook] is json_log.ContractLoggerHook and Mine not in seams.replaced


def test_mmengine_is_patched_in_one_place_for_each_row():
    assert Runner.build_train_loop.__module__ == "mmcv_overrides.whole_table"


# ---- small ones ----

X = torch.zeros
BATCHES = {
    "inputs": (dict(inputs=[X(3, 2, 2)] * 3, data_samples=[0] * 3), 3),
    "branches": (dict(inputs=dict(sup=[X(3, 2, 2)] * 2, unsup=[X(3, 2, 2)] * 4)), 6),
    "columns of tensors": ([X(5, 3, 2, 2), X(5)], 5),
    "columns of lists": ([[X(3, 2, 2)] * 4, [0] * 4], 4),
    "images": ([X(3, 2, 2), X(3, 4, 4)], 2),
    "nothing": ({}, 0),
    "a stream without a batch": (None, 0),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_the_number_of_samples_in_a_batch(kind):
    batch, count = BATCHES[kind]
    assert batch_size(batch) == count


def test_loss_scale_takes_the_arguments_of_gradscaler():
    on = LossScale.parse(dict(init_scale=512.0, enabled=True), "cpu")
    off = LossScale.parse(dict(init_scale=512.0, enabled=False), "cpu")
    assert (on.value(), on.dynamic) == (512.0, True) and (off.value(), off.is_one) == (1.0, True)


def test_weights_named_by_torchvision_say_what_they_need(monkeypatch):
    def absent():
        raise ModuleNotFoundError("No module named 'torchvision'", name="torchvision")

    monkeypatch.setattr(mmengine_functions, "_upstream_torchvision", absent)
    with pytest.raises(UserError, match="need torchvision for their address.*pip install torchvision"):
        mmengine_functions.get_torchvision_models()


PROGRAM = """
import sys
import mmcv.ops                      # at the top, as in tools/test.py
import mmcv_overrides
from torch.utils.data import DataLoader
import helper                        # beside the program
class Data:
    def __len__(self): return 4
    def __getitem__(self, index):
        import mmcv
        return int(mmcv._ext.__name__ == "mmcv_overrides.ops.ext")
if __name__ == "__main__":
    print(sys.argv[1:], helper.VALUE, mmcv_overrides._active is not None)
    print(list(map(int, DataLoader(Data(), batch_size=None, num_workers=1, multiprocessing_context="spawn"))))
"""


def test_a_program_runs_with_the_overrides_from_its_first_line(tmp_path):
    """Its spawned workers too, which run it anew."""
    (tmp_path / "tool.py").write_text(PROGRAM)
    (tmp_path / "helper.py").write_text("VALUE = 42\n")
    command = [sys.executable, "-m", "mmcv_overrides.run", str(tmp_path / "tool.py"), "a", "--b"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["['a', '--b'] 42 True", "[1, 1, 1, 1]"], done.stderr


def test_a_program_that_is_not_there_is_named():
    from mmcv_overrides import run

    with pytest.raises(UserError, match="no-such.py: there is no such program"):
        run.main(["no-such.py"])
    with pytest.raises(UserError, match="name the program to run"):
        run.main([])


def test_no_line_is_due_at_the_end_of_a_stream():
    """Data without a length: ``len`` of such a loader is an error."""
    logger = json_log.ContractLoggerHook(interval=10)
    runner = SimpleNamespace(hooks=[logger], iter=4, max_iters=100, train_dataloader=object(), _train_loop=None)
    assert not text_log.log_line_follows(runner, 4) and text_log.log_line_follows(runner, 9)
