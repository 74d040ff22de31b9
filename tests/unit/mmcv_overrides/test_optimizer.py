"""The one step: equal to torch's own arithmetic at every level, and never harmed by a bad step."""

import copy

import pytest
import torch
from torch import nn

from mmcv_overrides import precision
from mmcv_overrides.optimizer import StepOptimWrapper
from mmcv_overrides.optimizer_constructor import MergedOptimWrapperConstructor
from mmcv_overrides.parameter_groups import merge_groups


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))


def batches(n=4):
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(2, 3, 8, 8, generator=generator) for _ in range(n)]


def reference(net, data, clip):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    norms = []
    for x in data:
        net(x).square().mean().backward()
        norms.append(nn.utils.clip_grad_norm_(net.parameters(), clip).item())
        optimizer.step()
        optimizer.zero_grad()
    return norms


def ours(net, data, clip, fused=True, **kwargs):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, fused=fused)
    wrapper = StepOptimWrapper(optimizer, clip_grad=dict(max_norm=clip, norm_type=2), **kwargs)
    norms = []
    for x in data:
        with wrapper.optim_context(net):
            loss = net(x).float().square().mean()
        wrapper.update_params(loss)
        norms.append(wrapper.last_grad_norm.item())
    return wrapper, norms


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("loss_scale", [1.0, 32.0, "dynamic"])
@pytest.mark.parametrize("clip", [0.05, 35.0])
def test_step_equals_torch(fused, loss_scale, clip):
    one, two = model(), model()
    expected = reference(one, batches(), clip)
    _, norms = ours(two, batches(), clip, fused=fused, loss_scale=loss_scale)
    assert norms == pytest.approx(expected, rel=1e-5)
    for a, b in zip(one.parameters(), two.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_accumulation_equals_one_large_batch():
    one, two = model(), model()
    for net in (one, two):
        net[1].eval()
    x = torch.cat(batches(2))
    reference(one, [x], 35.0)
    optimizer = torch.optim.SGD(two.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    wrapper = StepOptimWrapper(optimizer, accumulative_counts=2, clip_grad=dict(max_norm=35.0))
    for half in x.chunk(2):
        wrapper.update_params(two(half).square().mean())
    for a, b in zip(one.parameters(), two.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_step_changes_nothing_even_as_the_first(fused, kind, bad):
    net, untouched = model(), model()
    settings = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    wrapper = StepOptimWrapper(kind(net.parameters(), lr=0.1, fused=fused, **settings), clip_grad=dict(max_norm=35.0))
    wrapper.update_params(net(batches()[0]).square().mean() * bad)
    assert wrapper.last_bad.item() == 1.0
    for a, b in zip(net.parameters(), untouched.parameters()):
        assert torch.equal(a, b)
    # and the next good step is what it would have been without the bad one
    for m, w in (
        (net, wrapper),
        (
            untouched,
            StepOptimWrapper(
                kind(untouched.parameters(), lr=0.1, fused=fused, **settings), clip_grad=dict(max_norm=35.0)
            ),
        ),
    ):
        m[1].reset_running_stats()
        w.update_params(m(batches()[1]).square().mean())
    assert wrapper.last_bad.item() == 0.0
    for a, b in zip(net.parameters(), untouched.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_a_finite_loss_with_an_infinite_gradient_is_caught():
    weight = nn.Parameter(torch.zeros(1))
    wrapper = StepOptimWrapper(torch.optim.SGD([weight], lr=1.0, fused=True))
    wrapper.update_params(weight.sqrt().sum())  # d sqrt(0) = inf, sqrt(0) = 0
    assert wrapper.last_bad.item() == 1.0 and wrapper.last_loss_bad.item() == 0.0
    assert weight.item() == 0.0


def test_dynamic_scale_halves_on_overflow_only():
    net = model()
    wrapper, _ = ours(net, batches(1), 35.0, loss_scale=dict(init_scale=64.0, growth_interval=1000))
    wrapper.update_params(net(batches()[0]).square().mean() * float("inf"))
    assert wrapper.loss_scale.value() == 32.0


@pytest.mark.parametrize("level", ["O1", "bf16"])
def test_autocast_levels_train_close_to_fp32(level):
    one, two = model(), model()
    reference(one, batches(), 35.0)
    wrapper, _ = ours(two, batches(), 35.0, opt_level=level, loss_scale=32.0, amp_dtype="bf16")
    assert wrapper.dtype is torch.bfloat16
    assert all(p.dtype is torch.float32 for p in two.parameters())
    worst = max((a - b).abs().max().item() for a, b in zip(one.parameters(), two.parameters()))
    assert 0 < worst < 0.1  # bf16 has 8 bits; zero would mean that autocast was off


def test_o2_keeps_fp32_masters_that_see_small_updates():
    net = precision.cast_weights(model(), torch.bfloat16)
    assert net[0].weight.dtype is torch.bfloat16 and net[1].weight.dtype is torch.float32
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-4)
    wrapper = StepOptimWrapper(optimizer, opt_level="O2", amp_dtype="bf16", loss_scale=32.0)
    before = [m.detach().clone() for m in wrapper.masters]
    for _ in range(20):  # each update is far below one unit of bf16: without masters nothing would ever move
        wrapper.update_params(net(batches()[0].bfloat16()).float().square().mean())
    moved = [(a - b).abs().max().item() for a, b in zip(before, wrapper.masters)]
    assert all(m > 0 for m in moved)
    for p, m in zip(wrapper.model_params, wrapper.masters):
        assert torch.equal(p, m.to(p.dtype))


def test_o2_state_round_trip_keeps_the_masters():
    net = precision.cast_weights(model(), torch.bfloat16)
    wrapper = StepOptimWrapper(
        torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9), opt_level="O2", amp_dtype="bf16"
    )
    wrapper.update_params(net(batches()[0].bfloat16()).float().square().mean())
    state = copy.deepcopy(wrapper.state_dict())
    other = precision.cast_weights(model(seed=1), torch.bfloat16)
    again = StepOptimWrapper(
        torch.optim.SGD(other.parameters(), lr=1e-3, momentum=0.9), opt_level="O2", amp_dtype="bf16"
    )
    again.load_state_dict(state)
    for a, b in zip(wrapper.masters, again.masters):
        assert torch.equal(a, b)
    for a, b in zip(net.parameters(), other.parameters()):
        assert torch.equal(a, b)


def test_groups_are_merged_by_setting():
    a, b, c, d = (nn.Parameter(torch.zeros(1)) for _ in range(4))
    merged = merge_groups(
        [
            {"params": [a], "lr": 0.1},
            {"params": [b], "lr": 0.2, "weight_decay": 0.0},
            {"params": [c], "lr": 0.1},
            {"params": [d], "weight_decay": 0.0, "lr": 0.2},
        ]
    )
    assert [g["params"] for g in merged] == [[a, c], [b, d]]


def test_constructor_follows_paramwise_settings_in_two_groups():
    net = model()
    net[0].weight.requires_grad_(False)
    build = MergedOptimWrapperConstructor(
        dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=1e-4)),
        dict(bias_lr_mult=2.0, bias_decay_mult=0.0),
    )
    groups = build(net).optimizer.param_groups
    by_id = {id(p): (g["lr"], g["weight_decay"], g["fused"]) for g in groups for p in g["params"]}
    assert len(groups) == 3  # conv and linear biases; the batch norm's weights (lr 0.1, decay); its bias keeps the lr
    assert by_id[id(net[0].bias)] == (0.2, 0.0, True)
    assert by_id[id(net[4].weight)] == (0.1, 1e-4, True)
    assert id(net[0].weight) not in by_id  # frozen


def test_frozen_model_is_refused():
    from mmcv_overrides.errors import UserError

    net = model().requires_grad_(False)
    build = MergedOptimWrapperConstructor(dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1)))
    with pytest.raises(UserError, match="nothing to train"):
        build(net)


def test_npu_fused_sgd_falls_back_by_name():
    build = MergedOptimWrapperConstructor(
        dict(type="OptimWrapper", optimizer=dict(type="NpuFusedSGD", lr=0.1, momentum=0.9, weight_decay=1e-4))
    )
    optimizer = build(model()).optimizer
    assert type(optimizer) is torch.optim.SGD and optimizer.defaults["fused"] is True


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def loss_by_feat(self, maps, scale=1.0):
        self.seen = [m.dtype for m in maps]
        return {"loss": sum((m * 300).square().sum() for m in maps) * scale}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_computed_in_fp32_at_every_level(dtype):
    head = precision.keep_losses_fp32(Head())
    assert isinstance(head, Head) and precision.keep_losses_fp32(head) is head
    with torch.autocast("cpu", dtype=dtype):
        loss = copy.deepcopy(head).loss_by_feat([torch.ones(4, dtype=dtype)], scale=2.0)["loss"]
    assert loss.dtype is torch.float32
    assert loss.item() == 4 * 300**2 * 2.0  # 720000 does not exist in fp16
