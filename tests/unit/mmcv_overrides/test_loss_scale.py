"""Static and dynamic loss scale, against the rule written out and against torch's GradScaler."""

import pytest
import torch

from mmcv_overrides.errors import UserError
from mmcv_overrides.loss_scale import LossScale


def test_static_scale_never_moves():
    scale = LossScale.parse(32.0, "cpu")
    scale.update(torch.ones(()))
    assert scale.value() == 32.0
    assert scale.scale(torch.tensor(0.5)) == 16.0
    assert scale.inverse() == 1 / 32


def test_dynamic_scale_follows_gradscaler():
    ours = LossScale(init_scale=64.0, growth_interval=2, device="cpu")
    theirs = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=2)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    for overflow in (False, True, False, False, False, True, True, False, False):
        loss = (weight * (float("inf") if overflow else 1.0)).sum()
        theirs.scale(loss).backward()
        theirs.step(optimizer)
        theirs.update()
        optimizer.zero_grad()
        ours.update(torch.tensor(float(overflow)))
        assert ours.value() == theirs.get_scale()
    assert ours.value() == 32.0


@pytest.mark.parametrize("spec", ["dynamic", -1, "-1", "-1.0"])
def test_words_for_dynamic(spec):
    assert LossScale.parse(spec, "cpu").dynamic


@pytest.mark.parametrize("spec", ["dynamc", 0, -2, float("inf"), {"scale": 3}])
def test_bad_scales_are_refused(spec):
    with pytest.raises(UserError, match="loss.scale"):
        LossScale.parse(spec, "cpu")


def test_state_round_trip():
    one = LossScale(init_scale=8.0, growth_interval=3, device="cpu")
    for flag in (0.0, 0.0, 1.0, 0.0, 0.0):
        one.update(torch.tensor(flag))
    two = LossScale(init_scale=1024.0, growth_interval=3, device="cpu")
    two.load_state_dict(one.state_dict())
    assert two.value() == one.value() == 4.0
    one.update(torch.zeros(()))
    two.update(torch.zeros(()))
    assert two.value() == one.value() == 8.0  # the growth tracker went along


def test_static_scale_given_anew_wins():
    static = LossScale.parse(16.0, "cpu")
    static.load_state_dict({"scale": 32.0})
    assert static.value() == 16.0
