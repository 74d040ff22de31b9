"""A training begun with plain mmengine is continued with the overrides, and the reverse."""

import copy
import subprocess
import sys

import pytest
import torch
from mmengine.optim import DefaultOptimWrapperConstructor, MultiStepLR
from mmengine.optim.optimizer.optimizer_wrapper import OptimWrapper as UpstreamWrapper

from mmcv_overrides.errors import UserError
from mmcv_overrides.optimizer import StepOptimWrapper
from mmcv_overrides.optimizer_constructor import MergedOptimWrapperConstructor
from tests.support.toy_runs import Toy

SGD = dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=0.01)
ADAMW = dict(type="AdamW", lr=0.05, weight_decay=0.02)
FCOS = dict(bias_lr_mult=2.0, bias_decay_mult=0.0)
# optimizer, paramwise_cfg, parts that are frozen: number of groups of mmengine, of the overrides
CASES = {
    "sgd": (SGD, None, None, 1, 1),
    "adamw": (ADAMW, None, None, 1, 1),
    "frozen": (SGD, None, "backbone.one", 1, 1),
    "fcos": (SGD, FCOS, "backbone.one", 6, 3),
    "adamw, norms without decay": (ADAMW, dict(norm_decay_mult=0.0), None, 8, 2),
    "settings that change nothing": (SGD, dict(norm_decay_mult=1.0), None, 8, 1),
    "by name": (SGD, dict(custom_keys={"last": dict(lr_mult=0.1)}), None, 8, 2),
    "fused by the config": (dict(SGD, fused=True), FCOS, None, 8, 3),
}


class OptimWrapper(UpstreamWrapper):
    """mmengine's own: the class itself stands for its replacement where a config names it."""


class Training:
    """A model, its optimizer and its schedule, of mmengine alone or of the overrides."""

    def __init__(self, plain: bool, case: str, level: dict | None = None):
        optimizer, paramwise, frozen, *_ = CASES[case]
        self.model = Toy(frozen=frozen)
        kind, build = (
            (OptimWrapper, DefaultOptimWrapperConstructor)
            if plain
            else (StepOptimWrapper, MergedOptimWrapperConstructor)
        )
        self.wrapper = build(dict(type=kind, optimizer=dict(optimizer), **(level or {})), paramwise)(self.model)
        self.schedule = MultiStepLR(self.wrapper, milestones=[3], gamma=0.1)

    def steps(self, numbers) -> "Training":
        for number in numbers:
            x = torch.randn(4, 4, generator=torch.Generator().manual_seed(number))
            self.wrapper.update_params(self.model(x)["loss"])
            self.schedule.step()
        return self

    def state(self) -> dict:
        return copy.deepcopy((self.model.state_dict(), self.wrapper.state_dict(), self.schedule.state_dict()))

    def load(self, state) -> "Training":
        for part, saved in zip((self.model, self.wrapper, self.schedule), copy.deepcopy(state), strict=True):
            part.load_state_dict(saved)
        return self


def weights(training: Training) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in training.model.parameters()])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("first", [True, False], ids=["plain first", "overrides first"])
def test_the_second_half_is_that_of_an_uninterrupted_training(case, first):
    whole = weights(Training(True, case).steps(range(6)))
    begun = Training(first, case).steps(range(2))
    resumed = Training(not first, case).load(begun.state())
    counts = {True: CASES[case][3], False: CASES[case][4]}
    assert len(begun.wrapper.optimizer.param_groups) == counts[first]
    assert len(resumed.wrapper.optimizer.param_groups) == counts[not first]
    assert len(resumed.schedule.base_values) == counts[not first] + (CASES[case][3] > 1)  # and the base learning rate
    torch.testing.assert_close(weights(resumed.steps(range(2, 6))), whole, rtol=1e-5, atol=1e-6)
    assert resumed.wrapper.get_lr()["lr"][0] == pytest.approx(whole_rate(case))


def whole_rate(case: str) -> float:
    """The rate of the first parameter after the milestone; in the case of FCOS a norm's weight or a layer's."""
    return CASES[case][0]["lr"] * 0.1


@pytest.mark.parametrize("case", ["sgd", "fcos", "adamw, norms without decay"])
def test_a_checkpoint_has_the_groups_and_flags_of_mmengine(case):
    plain, ours = (Training(kind, case).steps(range(2)).state()[1] for kind in (True, False))
    assert ours["param_groups"] == plain["param_groups"]
    assert ours["state"].keys() == plain["state"].keys()
    for key, values in plain["state"].items():
        for name, value in values.items():
            torch.testing.assert_close(ours["state"][key][name], value, rtol=1e-5, atol=1e-6)


def test_a_state_of_merged_groups_is_still_resumed():
    """Earlier releases wrote the optimizer's own groups, without names."""
    begun = Training(False, "fcos").steps(range(2))
    model, wrapper, schedule = begun.state()
    old = copy.deepcopy(begun.wrapper.optimizer.state_dict())
    merged = dict(schedule, base_values=begun.schedule.base_values, _last_value=begun.schedule._last_value)
    old["loss_scaler"] = wrapper["loss_scaler"]
    assert len(old["param_groups"]) == 3
    resumed = Training(False, "fcos").load((model, old, merged))
    torch.testing.assert_close(
        weights(resumed.steps(range(2, 6))), weights(begun.steps(range(2, 6))), rtol=1e-6, atol=1e-7
    )


def test_masters_follow_their_parameters_into_the_order_of_mmengine():
    level = dict(opt_level="O2", amp_dtype="bf16")
    begun = Training(False, "by name", level)
    begun.wrapper.lower(begun.model)
    state = begun.steps(range(2)).state()
    assert [tuple(m.shape) for m in state[1]["masters"]] == [tuple(p.shape) for p in begun.model.parameters()]
    resumed = Training(False, "by name", level).load(state)
    resumed.wrapper.lower(resumed.model)
    for one, two in zip(begun.wrapper.masters, resumed.wrapper.masters, strict=True):
        assert torch.equal(one, two)
    assert torch.equal(weights(begun.steps(range(2, 4))), weights(resumed.steps(range(2, 4))))


def test_a_layer_frozen_since_then_keeps_the_others_in_place():
    """By name: the state of what is no longer trained is left, what was frozen begins without one."""
    begun = Training(False, "by name").steps(range(2))
    resumed = Training(False, "fcos")
    CASES["thawed"] = (SGD, CASES["by name"][1], "backbone.one", 6, 2)
    try:
        resumed = Training(False, "thawed")
    finally:
        del CASES["thawed"]
    resumed.load(begun.state()[:2] + (resumed.state()[2],))
    for (name, one), (_, two) in zip(begun.model.named_parameters(), resumed.model.named_parameters(), strict=True):
        states = [
            t.wrapper.optimizer.state.get(p, {}).get("momentum_buffer") for t, p in ((begun, one), (resumed, two))
        ]
        assert (states[1] is None) if name.startswith("backbone.one") else torch.equal(*states), name


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize(
    ("saved", "now", "message"),
    [
        ("sgd", "adamw", r"written with SGD, and this config has AdamW"),
        ("adamw", "sgd", r"written with Adam(W| or AdamW), and this config has SGD"),
    ],
)
def test_the_state_of_another_optimizer_is_refused(plain, saved, now, message):
    state = Training(plain, saved).steps(range(1)).state()[1]
    with pytest.raises(UserError, match=f"cannot resume the optimizer: .*{message}.*load_from"):
        Training(False, now).wrapper.load_state_dict(state)


def test_adam_is_not_adamw():
    model = Toy()
    state = OptimWrapper(torch.optim.Adam(model.parameters())).state_dict()
    with pytest.raises(UserError, match="written with Adam, and this config has AdamW"):
        Training(False, "adamw").wrapper.load_state_dict(state)


def test_another_paramwise_cfg_is_refused():
    state = Training(True, "fcos").steps(range(1)).state()[1]
    with pytest.raises(UserError, match="6 parameter groups with 6 parameters where this config has 1 with 8"):
        Training(False, "sgd").wrapper.load_state_dict(state)


def test_a_scale_of_mmengines_mixed_precision_is_taken_over():
    state = Training(True, "sgd").steps(range(1)).state()[1]
    scaler = dict(scale=4096.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=2000, _growth_tracker=7)
    ours = Training(False, "sgd", dict(loss_scale="dynamic"))
    ours.wrapper.load_state_dict(dict(state, loss_scaler=scaler))
    assert ours.wrapper.loss_scale.value() == 4096.0
    assert set(ours.wrapper.state_dict()["loss_scaler"]) >= set(scaler)  # what GradScaler asks for


PLAIN = """
import sys
from pathlib import Path
from mmengine.runner import Runner
sys.path.insert(0, sys.argv[1])
import tests.support.toy_resume as toy
assert "mmcv_overrides" not in sys.modules
toy.run(Path(sys.argv[2]), epochs=2)
toy.run(Path(sys.argv[3]), epochs=4, resume=True)
"""


def test_the_files_themselves_are_exchanged(tmp_path, pytestconfig):
    """Checkpoints of a whole runner: with plain mmengine in a process of its own."""
    from tests.support import toy_resume

    toy_resume.run(tmp_path / "ours", epochs=2)
    script = tmp_path / "plain.py"
    script.write_text(PLAIN)
    command = [sys.executable, str(script), str(pytestconfig.rootpath), str(tmp_path / "plain"), str(tmp_path / "ours")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    toy_resume.run(tmp_path / "plain", epochs=4, resume=True)
    ends = [torch.load(tmp_path / name / "epoch_4.pth", weights_only=False) for name in ("ours", "plain")]
    whole = toy_resume.run(tmp_path / "whole", epochs=4)
    for end in ends:
        assert (end["meta"]["epoch"], end["meta"]["iter"]) == (4, 16)
        assert len(end["optimizer"]["param_groups"]) == 8 and len(end["param_schedulers"][0]["base_values"]) == 9
        for name, value in whole.model.state_dict().items():
            torch.testing.assert_close(end["state_dict"][name], value, rtol=1e-5, atol=1e-6, msg=name)
