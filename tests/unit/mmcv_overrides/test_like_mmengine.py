"""What is trained, and on which data: as mmengine's own loop, constructor and optimizer wrapper do it."""

import copy
import pickle

import pytest
import torch
from mmdet.engine.hooks import PipelineSwitchHook
from mmengine.optim import DefaultOptimWrapperConstructor as UpstreamConstructor
from mmengine.optim.optimizer.optimizer_wrapper import OptimWrapper as UpstreamWrapper
from mmengine.runner.loops import EpochBasedTrainLoop
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, Subset

from mmcv_overrides import loop
from mmcv_overrides.errors import UserError
from mmcv_overrides.optimizer import StepOptimWrapper
from mmcv_overrides.optimizer_constructor import MergedOptimWrapperConstructor
from tests.support.toy_runs import At, Lists, Points, Toy, toy_runner


class TheirLoop(EpochBasedTrainLoop):
    """mmengine's own: the class itself stands for its replacement where a config names it."""


class OptimWrapper(UpstreamWrapper):
    """mmengine's own."""


class DefaultOptimWrapperConstructor(UpstreamConstructor):
    """mmengine's own."""


# ---- data ----


class Piped(Points):
    """Points through a pipeline that can be exchanged, as mmengine's BaseDataset has it."""

    def __init__(self):
        super().__init__()
        self.pipeline = first

    def __getitem__(self, index):
        return self.pipeline(super().__getitem__(index))


def first(sample):
    return {"x": sample["x"] * 0 + 1}


def second(sample):
    return {"x": sample["x"] * 0 + 2}


LOADERS = [
    dict(num_workers=0),
    dict(num_workers=2, persistent_workers=False),
    dict(num_workers=2, persistent_workers=True),
]


def samples(folder, train_cfg, loader, hook):
    """How many samples of each epoch came from the second pipeline."""
    seen = [0, 0, 0]

    def look(runner):
        seen[runner.epoch] += int((runner.batch["x"][:, 0] == 2).sum())

    watch = At("after_train_iter", look)
    watch.before_train_iter = lambda runner, batch_idx, data_batch: setattr(runner, "batch", data_batch)
    runner = toy_runner(
        folder, hooks=(watch, hook), epochs=3, loader=dict(loader, dataset=Piped()), train_cfg=train_cfg
    )
    runner.train()
    return seen, type(runner.train_loop)


@pytest.mark.parametrize("loader", LOADERS, ids=["main process", "workers", "persistent workers"])
def test_a_pipeline_that_a_hook_exchanges_is_used(tmp_path, loader):
    theirs = samples(tmp_path / "a", dict(type=TheirLoop, max_epochs=3), loader, PipelineSwitchHook(1, [second]))
    ours = samples(
        tmp_path / "b", dict(type="EpochBasedTrainLoop", max_epochs=3), loader, PipelineSwitchHook(1, [second])
    )
    assert (theirs[1], ours[1]) == (TheirLoop, loop.ResumableEpochLoop)
    assert ours[0] == theirs[0] == [0, 16, 16]


def test_the_loader_keeps_the_users_data_set(tmp_path):
    runner = toy_runner(tmp_path, loader=dict(dataset=Piped()))
    loader = runner.train_loop.dataloader
    assert type(loader.dataset) is Piped and type(loader) is DataLoader
    assert type(pickle.loads(pickle.dumps(loader.dataset))) is Piped and type(copy.deepcopy(loader.dataset)) is Piped


@pytest.mark.parametrize("context", [None, "spawn"])
def test_a_batch_is_plain_indices_wherever_it_is_fetched(context):
    loader = DataLoader(
        Subset(Lists(), range(16)), batch_size=4, num_workers=1 if context else 0, multiprocessing_context=context
    )
    expected = [list(range(first, first + 4)) for first in range(0, 16, 4)]
    loop.seed_batches(loader, 0)
    loop.seed_batches(loader, 1)  # a second loop takes the loader over
    assert [batch["index"].tolist() for batch in loader] == expected and type(expected[0][0]) is int
    assert type(loader.batch_sampler.batch_sampler) is BatchSampler and loader.batch_sampler.seed == 1


def test_a_batch_of_seeds_survives_pickling_without_being_iterated():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    batch = pickle.loads(pickle.dumps(loop.SeededBatch([3, 4], [7, 8])))
    assert batch[:] == [3, 4] and batch.seeds == [7, 8] and len(copy.deepcopy(batch)) == 2
    assert torch.equal(torch.get_rng_state(), state)


def test_attributes_of_the_batch_sampler_are_set_and_deleted_there():
    inner = BatchSampler(SequentialSampler(range(8)), 4, False)
    outer = loop.SeededBatches(inner, 0)
    outer.batch_size, outer.mine = 2, 1
    assert (inner.batch_size, inner.mine) == (2, 1) and len(list(outer)) == 4
    del outer.mine
    assert not hasattr(inner, "mine")
    outer.epoch = 3
    assert outer.epoch == 3 and not hasattr(inner, "epoch")


# ---- parameters ----


def shared():
    torch.manual_seed(0)
    layer = nn.Linear(2, 1)
    return nn.ModuleDict({"a": nn.Sequential(layer), "b": nn.Sequential(layer)})


def constructed(build, model, paramwise, **wrapper):
    settings = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1), **wrapper)
    if build is DefaultOptimWrapperConstructor:
        settings["type"] = OptimWrapper
        settings.pop("loss_scale", None)
    return build(settings, paramwise)(model)


@pytest.mark.parametrize("scale", [1.0, 32.0])
@pytest.mark.parametrize(
    "paramwise", [None, dict(bypass_duplicate=True), dict(bypass_duplicate=True, bias_lr_mult=2.0)]
)
def test_a_shared_layer_takes_one_step(paramwise, scale):
    after = []
    for build in (DefaultOptimWrapperConstructor, MergedOptimWrapperConstructor):
        model = shared()
        wrapper = constructed(build, model, paramwise, loss_scale=scale)
        assert sum(len(group["params"]) for group in wrapper.optimizer.param_groups) == 2
        x = torch.tensor([[1.0, 2.0]])
        wrapper.update_params((model["a"](x) + model["b"](x)).sum())
        after.append(torch.cat([model["a"][0].weight.flatten(), model["a"][0].bias]).detach())
    torch.testing.assert_close(after[1], after[0])
    torch.testing.assert_close(after[1][:2], shared()["a"][0].weight[0].detach() - torch.tensor([0.2, 0.4]))


def test_a_shared_layer_with_paramwise_settings_is_refused_as_upstream():
    for build in (DefaultOptimWrapperConstructor, MergedOptimWrapperConstructor):
        with pytest.raises(ValueError, match="some parameters appear in more than one parameter group") as caught:
            constructed(build, shared(), dict(bias_lr_mult=2.0))
    assert isinstance(caught.value, UserError)
    assert "(a.0.weight, a.0.bias, b.0.weight, b.0.bias)" in str(caught.value) and "bypass_duplicate=True" in str(
        caught.value
    )


@pytest.mark.parametrize("paramwise", [None, dict(bias_lr_mult=2.0)])
def test_frozen_parameters_are_in_the_optimizer_where_upstream_has_them(paramwise):
    counts = []
    for build in (DefaultOptimWrapperConstructor, MergedOptimWrapperConstructor):
        model = Toy(frozen="backbone.one")
        held = {p for group in constructed(build, model, paramwise).optimizer.param_groups for p in group["params"]}
        counts.append(sorted(name for name, p in model.named_parameters() if p in held))
    assert counts[0] == counts[1] and len(counts[1]) == (6 if paramwise else 8)


@pytest.mark.parametrize("paramwise", [None, dict(norm_decay_mult=0.0)])
def test_a_layer_that_a_hook_unfreezes_trains_as_with_upstream(tmp_path, paramwise, monkeypatch):
    """``paramwise_cfg``: mmengine leaves frozen parameters out, and so do we, with a word about it."""
    weights, said = [], []
    monkeypatch.setattr(loop, "print_log", lambda text, *more: said.append(text))
    thaw = At("before_train_epoch", lambda r: r.model.requires_grad_(), epoch=1)
    for build, wrapper in (
        (DefaultOptimWrapperConstructor, OptimWrapper),
        (MergedOptimWrapperConstructor, StepOptimWrapper),
    ):
        options = dict(type=wrapper, constructor=build, paramwise_cfg=paramwise)
        options["optimizer"] = dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=0.01)
        runner = toy_runner(tmp_path / wrapper.__name__, Toy(frozen="backbone.one"), (thaw,), epochs=3, wrapper=options)
        runner.train()
        weights.append({name: p.detach() for name, p in runner.model.named_parameters()})
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-5, atol=1e-6, msg=name)
    moved = not torch.equal(weights[1]["backbone.one.weight"], Toy().backbone.one.weight)
    assert moved == (paramwise is None)
    assert len(said) == (0 if moved else 1)  # once, not in every epoch
    assert (
        moved
        or said[0].startswith("2 parameters require gradients")
        and "(backbone.one.weight, backbone.one.bias)" in said[0]
    )


def test_frozen_parameters_cost_nothing_until_they_train():
    net = Toy(frozen="backbone")
    wrapper = StepOptimWrapper(torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, fused=True))
    assert len(wrapper.optimizer.state) == 2
    wrapper.update_params(net(torch.ones(2, 4))["loss"])
    assert len(wrapper.last_norms) == len(wrapper.last_params) == 2 and len(wrapper.optimizer.state) == 2
    net.requires_grad_()
    before = [p.detach().clone() for p in net.parameters()]
    wrapper.update_params(
        net(torch.ones(2, 4))["loss"] * float("nan")
    )  # skipped: the new buffers must not keep garbage
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))
    assert all(not s["momentum_buffer"].isnan().any() for s in wrapper.optimizer.state.values())
    assert not any(wrapper.optimizer.state[p]["momentum_buffer"].any() for p in net.backbone.parameters())
    wrapper.update_params(net(torch.ones(2, 4))["loss"])
    assert not torch.equal(net.backbone.two.bias, before[5])


def test_parameters_of_a_group_that_a_hook_adds_are_unscaled():
    one, two = nn.Linear(1, 1), nn.Linear(1, 1)
    wrapper = StepOptimWrapper(torch.optim.SGD(one.parameters(), lr=1.0), loss_scale=32.0)
    wrapper.optimizer.add_param_group(dict(params=list(two.parameters())))
    bias = two.bias.item()
    wrapper.update_params(two(one(torch.ones(1, 1))).sum())
    assert two.bias.item() == pytest.approx(bias - 1.0)


# ---- checkpoints of the layout without frozen parameters ----


def steps(net, wrapper, count):
    for index in range(count):
        x = torch.randn(4, 4, generator=torch.Generator().manual_seed(index))
        wrapper.update_params(net(x)["loss"])


@pytest.mark.parametrize("level", [{}, dict(opt_level="O2", amp_dtype="bf16")], ids=["O0", "O2"])
def test_a_checkpoint_that_names_trained_parameters_alone_is_resumed(level):
    def build(params=None):
        net = Toy(frozen="backbone.one")
        params = [p for p in net.parameters() if params is None or p.requires_grad]
        wrapper = StepOptimWrapper(torch.optim.SGD(params, lr=0.1, momentum=0.9, fused=True), **level)
        return net, wrapper

    net, wrapper = build("trained")
    wrapper.lower(net)
    steps(net, wrapper, 3)
    weights, state = copy.deepcopy(net.state_dict()), copy.deepcopy(wrapper.state_dict())
    assert len(state["param_groups"][0]["params"]) == 6
    twin, resumed = build()
    twin.load_state_dict(weights)
    resumed.load_state_dict(state)
    resumed.lower(twin)
    assert len(resumed.param_groups[0]["params"]) == 8
    steps(net, wrapper, 2)
    steps(twin, resumed, 2)
    for one, two in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_checkpoint_with_shared_parameters_twice_is_resumed():
    model = shared()
    wrapper = StepOptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    state = copy.deepcopy(wrapper.state_dict())
    buffers = {
        key: {"momentum_buffer": torch.full((1, 2 - key), float(key + 1)).squeeze(0) if key else torch.ones(1, 2)}
        for key in (0, 1)
    }
    state["state"], state["param_groups"][0]["params"] = buffers, [0, 1, 0, 1]
    wrapper.load_state_dict(state)
    weight, bias = wrapper.model_params
    assert torch.equal(wrapper.optimizer.state[weight]["momentum_buffer"], torch.ones(1, 2))
    assert torch.equal(wrapper.optimizer.state[bias]["momentum_buffer"], torch.full((1,), 2.0))


@pytest.mark.parametrize(
    ("frozen", "message"),
    [
        ("backbone", "6 trained parameters in a group where this model has 2"),
        ("last", r"a state has shape \(8,\) where the parameter has \(8, 4\)"),
    ],
)
def test_a_checkpoint_of_other_frozen_layers_is_refused(frozen, message):
    net = Toy(frozen="backbone.one")
    wrapper = StepOptimWrapper(torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1, momentum=0.9))
    steps(net, wrapper, 1)
    other = StepOptimWrapper(torch.optim.SGD(Toy(frozen=frozen).parameters(), lr=0.1, momentum=0.9))
    with pytest.raises(UserError, match=f"cannot resume the optimizer: .*{message}.*load_from"):
        other.load_state_dict(wrapper.state_dict())
