"""After bad steps: counted, explained, stopped."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmcv_overrides.guard import NonFiniteAbort, NonFiniteGuardHook
from mmcv_overrides.optimizer import StepOptimWrapper


def run(tmp_path, bad_at, patience=3, iters=12, **kwargs):
    net = nn.Linear(2, 1)
    wrapper = StepOptimWrapper(torch.optim.SGD(net.parameters(), lr=0.01), **kwargs)
    lines = []
    runner = SimpleNamespace(
        optim_wrapper=wrapper,
        model=net,
        iter=0,
        work_dir=str(tmp_path),
        logger=SimpleNamespace(warning=lines.append),
    )
    hook = NonFiniteGuardHook(patience=patience)
    sample = SimpleNamespace(metainfo={"img_path": "a.jpg"})
    for i in range(iters):
        loss = net(torch.ones(1, 2)).sum() * (float("nan") if i in bad_at else 1.0)
        wrapper.update_params(loss)
        hook.after_train_iter(runner, i, {"data_samples": [sample]}, {"loss": loss})
        runner.iter += 1
    return hook, net, lines


def test_bad_steps_are_counted_and_training_goes_on(tmp_path):
    hook, net, lines = run(tmp_path, bad_at={2, 3, 7})
    assert (hook.skipped, hook.streak) == (3, 0)
    assert all(torch.isfinite(p).all() for p in net.parameters())
    assert sum("step skipped" in line for line in lines) == 3


def test_the_first_of_a_streak_is_dumped_with_what_is_needed(tmp_path):
    run(tmp_path, bad_at={2, 3})
    (file,) = tmp_path.glob("nonfinite_*.json")
    facts = json.loads(file.read_text())
    assert facts["iter"] == 3 and facts["images"] == ["a.jpg"] and facts["losses"] == {"loss": "nan"}
    assert facts["lr"] == 0.01 and set(facts["gradients_not_finite"]) == {"weight", "bias"}


def test_aborts_after_patience_in_a_row(tmp_path):
    with pytest.raises(NonFiniteAbort, match="stopped at iteration 7: 3 steps in a row"):
        run(tmp_path, bad_at={1, 2, 4, 5, 6})


def test_overflow_of_a_dynamic_scale_is_not_a_fault(tmp_path):
    weight = nn.Parameter(torch.ones(1))
    settings = dict(init_scale=2.0**30, growth_interval=100)
    wrapper = StepOptimWrapper(torch.optim.SGD([weight], lr=1e-38), loss_scale=settings)
    runner = SimpleNamespace(
        optim_wrapper=wrapper, model=nn.Module(), iter=0, work_dir=str(tmp_path), logger=SimpleNamespace(warning=print)
    )
    hook = NonFiniteGuardHook(patience=3)
    for i in range(25):  # the gradient 1e35 overflows fp32 at scale 2**12; at 2**11 it fits
        wrapper.update_params((weight * 1e35).sum())
        hook.after_train_iter(runner, i, {}, {"loss": weight.sum()})
        runner.iter += 1
    assert hook.overflows == 19 and hook.streak == 0 and wrapper.loss_scale.value() == 2.0**11
    assert not list(tmp_path.glob("nonfinite_*"))
