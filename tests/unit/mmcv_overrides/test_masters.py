"""O2's fp32 masters begin as the fp32 weights of every source, and follow the model after that."""

import copy

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import EMAHook
from torch import nn

from mmcv_overrides import precision
from mmcv_overrides.errors import UserError
from mmcv_overrides.optimizer import StepOptimWrapper
from tests.support.toy_runs import At, Points, Toy, named, toy_runner

O2 = dict(opt_level="O2", amp_dtype="bf16")
NORMAL = dict(type="Normal", layer="Linear", std=0.3)


def rounded(weights):
    return {k: v if "norm" in k else v.bfloat16().float() for k, v in weights.items()}


def equal(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[k], expected[k]) for k in expected)


def follows(runner):
    """The model is its masters, rounded; norm layers are their own."""
    model = {name: p.detach() for name, p in runner.model.named_parameters()}
    assert {v.dtype for k, v in model.items() if "norm" not in k} == {torch.bfloat16}
    return equal({k: v.float() for k, v in model.items()}, rounded(named(runner)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Checkpoints after four steps at O0 and at O2, a backbone file, and the weights of each."""
    folder = tmp_path_factory.mktemp("trained")
    runners = {"O0": toy_runner(folder / "O0"), "O2": toy_runner(folder / "O2", wrapper=O2)}
    for runner in runners.values():
        runner.train()
    torch.save({"state_dict": runners["O0"].model.backbone.state_dict()}, folder / "backbone.pth")
    return folder, {level: named(runner) for level, runner in runners.items()}


def start(tmp_path, trained, source, wrapper):
    """The weights after an epoch at learning rate 0: those that the training started from."""
    folder, _ = trained
    options, model = {}, Toy()
    if source == "initialisers":
        model = Toy(init_cfg=NORMAL)
    elif source == "pretrained":
        model = Toy(backbone_init=dict(type="Pretrained", checkpoint=str(folder / "backbone.pth")))
    elif source == "load_from":
        options = dict(load_from=str(folder / "O0" / "epoch_1.pth"))
    elif source.startswith("resume"):
        options = dict(load_from=str(folder / source[-2:] / "epoch_1.pth"), resume=True, epochs=2)
    runner = toy_runner(tmp_path / str(len(wrapper)), model, lr=0.0, wrapper=wrapper, **options)
    if source.startswith("resume"):  # which brings its learning rate and momentum along
        runner.register_hook(At("before_train", lambda r: r.optim_wrapper.param_groups[0].update(lr=0.0)))
    runner.train()
    return runner


@pytest.mark.parametrize(
    "source", ["constructor", "initialisers", "pretrained", "load_from", "resume from O0", "resume from O2"]
)
def test_the_first_weights_are_those_of_fp32_bit_for_bit(tmp_path, trained, source):
    expected = named(start(tmp_path, trained, source, {}))  # a resume at O0 takes the masters of an O2 checkpoint too
    runner = start(tmp_path, trained, source, O2)
    assert equal(named(runner), expected) and follows(runner)
    known = {"resume from O0": "O0", "load_from": "O0", "resume from O2": "O2"}
    if source in known:
        assert equal(expected, trained[1][known[source]])
    if source == "pretrained":
        assert torch.equal(expected["backbone.one.weight"], trained[1]["O0"]["backbone.one.weight"])
    if source == "initialisers":
        assert not torch.equal(expected["last.weight"], Toy().last.weight) and expected["last.bias"].item() == 0


def test_a_resumed_run_is_the_run_that_went_through(tmp_path):
    whole = toy_runner(tmp_path / "whole", epochs=3, wrapper=O2)
    whole.train()
    toy_runner(tmp_path / "parts", epochs=1, wrapper=O2).train()
    parts = toy_runner(tmp_path / "parts", epochs=3, wrapper=O2, resume=True)
    parts.train()
    assert equal(named(parts), named(whole)) and follows(parts)


def write(runner):
    """As a hook does that knows nothing of masters, below autograd and without a trace."""
    generator = torch.Generator().manual_seed(5)
    for param in runner.model.parameters():
        param.data.copy_(torch.randn(param.shape, generator=generator))


def load(runner):
    other = Toy()
    for param in other.parameters():
        param.data.copy_(torch.randn(param.shape, generator=torch.Generator().manual_seed(param.numel())))
    runner.model.load_state_dict(other.state_dict())


def replace(runner):
    for param in runner.model.parameters():
        param.data = torch.full_like(param, 0.7)  # which no initial weight has


@pytest.mark.parametrize(
    ("point", "do", "when"),
    [
        ("before_train", write, {}),
        ("before_train", replace, {}),
        ("before_train_epoch", write, dict(epoch=1)),
        ("before_train_iter", load, dict(iteration=6)),
        ("after_train_iter", load, dict(iteration=2)),
        ("after_train_iter", replace, dict(iteration=5)),
        ("after_train_epoch", write, dict(epoch=0)),
    ],
)
def test_weights_that_a_hook_writes_are_trained(tmp_path, point, do, when):
    results = {}
    for name, wrapper in (("O0", {}), ("O2", O2)):
        runner = toy_runner(tmp_path / name, hooks=(At(point, do, **when),), epochs=2, lr=0.0, wrapper=wrapper)
        runner.train()
        results[name] = named(runner)
    assert equal(results["O2"], rounded(results["O0"]))
    assert not equal(results["O0"], {k: v.detach() for k, v in Toy().named_parameters()})


def test_writes_through_data_in_mid_epoch_after_sync_masters(tmp_path):
    def tell(runner):
        write(runner)
        runner.optim_wrapper.sync_masters()

    runner = toy_runner(tmp_path, hooks=(At("before_train_iter", tell, iteration=2),), lr=0.0, wrapper=O2)
    runner.train()
    expected = Toy()
    write(type("R", (), {"model": expected}))
    assert equal(named(runner), rounded({k: v.detach() for k, v in expected.named_parameters()}))


def test_a_write_of_one_weight_costs_the_others_no_bit():
    net = precision.cast_weights(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), torch.bfloat16)
    wrapper = StepOptimWrapper(torch.optim.SGD(net.parameters(), lr=1e-4), **O2)

    def step():
        wrapper.update_params(net(torch.ones(1, 2).bfloat16()).float().sum())

    step()
    before = [m.detach().clone() for m in wrapper.masters]
    assert not torch.equal(before[0], before[0].bfloat16().float())
    wrapper.optimizer.param_groups[0]["lr"] = 0.0
    with torch.no_grad():
        net[1].bias.fill_(3.0)
        net[0].weight[0, 0] = 2.0
    step()
    assert wrapper.masters[3].item() == 3.0 and wrapper.masters[0][0, 0].item() == 2.0
    assert torch.equal(wrapper.masters[0][1], before[0][1]) and torch.equal(wrapper.masters[1], before[1])


class Nothing(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {"nothing": 0.0}


def test_an_average_of_the_weights_is_that_of_fp32(tmp_path):
    """A bf16 average would never move: momentum 0.002 is below half a unit."""
    averages = {}
    for name, wrapper in (("O0", {}), ("O2", O2)):
        hook = EMAHook(momentum=0.002)
        sampler, collate = dict(type="DefaultSampler", shuffle=False), dict(type="default_collate")
        loader = dict(batch_size=4, num_workers=0, dataset=Points(), sampler=sampler, collate_fn=collate)
        validation = dict(val_dataloader=loader, val_cfg=dict(), val_evaluator=Evaluator([Nothing()]))
        runner = toy_runner(tmp_path / name, hooks=(hook,), epochs=3, lr=0.02, wrapper=wrapper, **validation)
        runner.train()
        averages[name] = {k: v.detach().clone() for k, v in hook.ema_model.module.named_parameters()}
        if name == "O2":
            assert follows(runner)  # after the weights were exchanged for a validation and back
    start = Toy().state_dict()
    for key, value in averages["O0"].items():
        assert averages["O2"][key].dtype is torch.float32
        moved = (value - start[key]).norm()
        assert (averages["O2"][key] - value).norm() <= 0.01 * value.norm() + 0.2 * moved, key


def test_weights_without_a_gradient_are_left_to_their_owner(tmp_path):
    """A teacher that a hook averages from the student: a frozen part of the model, in the optimizer like all of it."""
    steps = []

    def teach(runner):
        runner.model.last.bias.data.add_(1.0)
        steps.append(runner.model.last.bias.item())

    runner = toy_runner(tmp_path, Toy(frozen="last.bias"), (At("after_train_iter", teach),), wrapper=O2)
    runner.train()
    first = Toy().last.bias.bfloat16().item()
    assert len(runner.optim_wrapper.model_params) == 8
    assert steps == pytest.approx([first + n for n in (1, 2, 3, 4)], abs=0.02)


def test_a_frozen_weight_that_is_unfrozen_gets_a_master(tmp_path):
    thaw = At("before_train_epoch", lambda r: r.model.requires_grad_(), epoch=1)
    results = {}
    for name, wrapper in (("O0", {}), ("O2", O2)):
        runner = toy_runner(tmp_path / name, Toy(frozen="backbone.one"), (thaw,), epochs=2, wrapper=wrapper)
        runner.train()
        results[name] = named(runner)["backbone.one.weight"]
    assert follows(runner) and results["O2"].dtype is torch.float32
    moved = (results["O0"] - Toy().backbone.one.weight).norm()
    assert (results["O2"] - results["O0"]).norm() < 0.1 * moved + 2**-8 * results["O0"].norm()


def test_state_is_kept_when_the_masters_take_the_place_of_the_weights():
    model, other = Toy(), Toy()
    for net in (model, other):
        wrapper = StepOptimWrapper(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, fused=True))
        wrapper.update_params(net(torch.ones(2, 4))["loss"])
    lowered = StepOptimWrapper(torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9, fused=True), **O2)
    lowered.load_state_dict(copy.deepcopy(wrapper.state_dict()))
    lowered.lower(other)
    lowered.lower(other)  # once more changes nothing
    buffers = [wrapper.optimizer.state[p]["momentum_buffer"] for p in wrapper.model_params]
    for master, buffer in zip(lowered.masters, buffers, strict=True):
        assert torch.equal(lowered.optimizer.state[master]["momentum_buffer"], buffer)
    assert len(lowered.optimizer.state) == 8 and buffers[0].abs().sum() > 0


def test_a_model_that_nobody_cast_is_refused():
    net = nn.Linear(2, 1)
    wrapper = StepOptimWrapper(torch.optim.SGD(net.parameters(), lr=0.1), **O2)
    with pytest.raises(
        UserError, match=r"no weight of the model is in a 16-bit type: call optim_wrapper.lower\(model\)"
    ):
        wrapper.update_params(net(torch.ones(1, 2)).sum())
    wrapper.zero_grad()
    wrapper.lower(net)
    wrapper.update_params(net(torch.ones(1, 2).bfloat16()).float().sum())
    assert torch.equal(net.weight, wrapper.masters[0].bfloat16())
