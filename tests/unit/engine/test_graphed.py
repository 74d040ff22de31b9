"""``--step-mode graph`` without a GPU: tapes replace CUDA graphs; results must equal those of the ordinary step."""

import copy
import inspect
from contextlib import contextmanager, nullcontext
from unittest import mock

import pytest
import torch

from fcos_train.config import step_mode
from fcos_train.engine import graphed
from fcos_train.models.fast.fold_bn import fold_frozen_bn
from fcos_train.models.fast.group_norm import quick_group_norm
from mmcv_overrides import device, precision
from mmcv_overrides.errors import UserError
from mmcv_overrides.optimizer import StepOptimWrapper
from tests.support.steps import batch, sgd, small_model
from tests.support.tape import Tape, TapedGraphs

# Not narrower: on a CPU torch's bf16 weight gradient of a stride-2 convolution is wrong for a map of one column
# (docs/log.md).
WIDE, HIGH = (96, 128), (128, 96)


def ready(name="fcos-gn"):
    model = small_model(name)
    fold_frozen_bn(model)
    quick_group_norm(model)
    return model


def graphs_of(model, wrapper, lines=None, warm_up=1, monkeypatch=None):
    if monkeypatch:
        monkeypatch.setattr(graphed, "WARM_UP", warm_up)
    taped = TapedGraphs()
    graphed.graph_step(model, wrapper, (lines if lines is not None else []).append, taped)
    return taped


def weights(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def run(model, wrapper, plan, rates):
    """Steps with the image sizes in ``plan`` and the learning rates in ``rates``; None: with a NaN in a weight."""
    results = []
    for seed, (size, rate) in enumerate(zip(plan, rates, strict=True)):
        poisoned = rate is None
        bias = (
            model.bbox_head.conv_reg.bias if hasattr(model.bbox_head, "conv_reg") else model.bbox_head.retina_reg.bias
        )
        kept = bias.detach().clone()
        if poisoned:
            bias.data.fill_(float("nan"))
        else:
            wrapper.optimizer.param_groups[0]["lr"] = rate
        shown = model.train_step(batch(seed, size, objects=(seed % 8, 2)), wrapper)
        if poisoned:
            bias.data.copy_(kept)
        results.append((shown, wrapper.last_bad, wrapper.last_loss_bad, wrapper.last_grad_norm, wrapper.last_norms))
    return results  # not read until all steps are done, as between two log lines


def adamw(model, **kwargs):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, fused=True)
    return StepOptimWrapper(optimizer, clip_grad=dict(max_norm=35, norm_type=2), **kwargs)


@pytest.mark.parametrize(
    ("name", "build", "options"),
    [
        ("fcos-gn", sgd, dict(opt_level="O0", loss_scale=32.0)),
        ("fcos-bn", adamw, dict(opt_level="O0", loss_scale=dict(init_scale=2.0**62, growth_interval=2))),
        ("fsaf", sgd, dict(opt_level="O2", amp_dtype="bf16", loss_scale="dynamic")),
    ],
)
def test_the_steps_of_eager(name, build, options, monkeypatch):
    if options["opt_level"] == "O2":  # there norms are not folded
        one = precision.cast_weights(small_model(name), torch.bfloat16)
    else:
        one = ready(name)
    two, lines = copy.deepcopy(one), []
    first, second = build(one, **options), build(two, **options)
    taped = graphs_of(two, second, lines, 1, monkeypatch)
    plan = [WIDE, HIGH, WIDE, HIGH, WIDE, HIGH, HIGH, WIDE]
    rates = [2**-10, 2**-9, 3 * 2**-10, 2**-10, None, 2**-11, 0.0, 2**-9]  # the same in f32 (on the device) and f64
    expected, found = run(one, first, plan, rates), run(two, second, plan, rates)
    tolerance = dict(rtol=1e-5, atol=1e-7)
    for (shown, *rest), (values, *others) in zip(found, expected, strict=True):
        assert shown.keys() == values.keys()
        for key, value in values.items():
            torch.testing.assert_close(shown[key], value.detach().reshape(()).float(), equal_nan=True, **tolerance)
        for mine, other in zip(rest, others, strict=True):
            torch.testing.assert_close(mine, other, equal_nan=True, **tolerance)
    bad = [float(step[1]) for step in found]
    assert bad[4] == 1.0 and 0.0 in bad[5:]
    reference = weights(one)
    for key, value in weights(two).items():
        torch.testing.assert_close(value, reference[key], **tolerance, msg=key)
    for key, value in one.named_buffers():
        torch.testing.assert_close(dict(two.named_buffers())[key], value, **tolerance)
    assert first.loss_scale.state_dict() == second.loss_scale.state_dict()
    assert first.inner_count == second.inner_count == 8
    assert second.state_dict()["param_groups"] == first.state_dict()["param_groups"]  # numbers, no tensors
    assert taped.captures == 2 and taped.plays == 6
    assert lines == [f"captured as one graph: 2 x {h}x{w}, 8 places for objects" for h, w in (WIDE, HIGH)]


def test_learning_rate_zero_after_the_capture_moves_nothing(monkeypatch):
    model = ready()
    wrapper = sgd(model)
    taped = graphs_of(model, wrapper, None, 1, monkeypatch)
    run(model, wrapper, [WIDE] * 3, [1e-3] * 3)
    before = weights(model)
    run(model, wrapper, [WIDE], [0.0])
    assert taped.captures == 1 and all(torch.equal(before[k], v) for k, v in weights(model).items())
    run(model, wrapper, [WIDE], [1e-3])
    assert any(not torch.equal(before[k], v) for k, v in weights(model).items())


def test_weights_written_between_replays_reach_the_masters(monkeypatch):
    """Writes are detected by code on the host, which a replay does not run."""
    model = precision.cast_weights(small_model("fsaf"), torch.bfloat16)
    wrapper = sgd(model, opt_level="O2", amp_dtype="bf16")
    taped = graphs_of(model, wrapper, None, 1, monkeypatch)
    run(model, wrapper, [WIDE] * 3, [1e-3] * 3)
    weight = model.neck.fpn_convs[0].conv.weight
    with torch.no_grad():
        weight.fill_(0.25)
    run(model, wrapper, [WIDE], [0.0])
    assert taped.captures == 1 and (weight == 0.25).all()


def test_captures_anew_for_what_a_graph_has_fixed(monkeypatch):
    model, lines = ready(), []
    wrapper = sgd(model)
    taped = graphs_of(model, wrapper, lines, 1, monkeypatch)

    def steps(objects=(3, 0)):
        for _ in range(2):
            model.train_step(batch(0, objects=objects), wrapper)
        return taped.captures

    assert steps() == steps((8, 8)) == 1
    assert steps((9, 0)) == 2  # a longer padding
    wrapper.optimizer.param_groups[0]["momentum"] = 0.5
    assert steps() == 3
    model.neck.fpn_convs[0].conv.weight.requires_grad_(False)
    assert steps() == 4
    model.bbox_head.conv_cls.weight.data = model.bbox_head.conv_cls.weight.data.clone()
    assert steps() == 5
    assert lines.count("the model changed in mid-run: capturing anew") == 2


def test_three_steps_run_before_a_capture():
    model = ready()
    wrapper = sgd(model)
    taped = graphs_of(model, wrapper)
    for count in range(5):
        model.train_step(batch(count), wrapper)
        assert (taped.captures, taped.plays) == (int(count >= 3), max(0, count - 2))


def test_copies_of_the_model_step_uncaptured():
    model = ready()
    graphs_of(model, sgd(model))
    names = list(model.state_dict())
    twin = copy.deepcopy(model)
    assert twin.train_step.__self__ is twin and list(twin.state_dict()) == names
    assert twin.train_step(batch(0), sgd(twin))["loss"] > 0


def test_what_cannot_be_captured_is_refused(monkeypatch):
    model = ready()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UserError, match="--step-mode graph needs a fused optimizer.*--step-mode eager"):
        graphs_of(model, StepOptimWrapper(optimizer))
    wrapper = sgd(model)
    graphs_of(model, wrapper, None, 0, monkeypatch)
    with pytest.raises(UserError, match="batches of fixed shape, got list"):
        model.train_step({"inputs": torch.zeros(1, 3, 8, 8), "data_samples": []}, wrapper)
    plain = type(model).loss

    def reads_back(self, images, objects):
        losses = plain(self, images, objects)
        assert losses["loss_cls"].item() > 0
        return losses

    monkeypatch.setattr(type(model), "loss", reads_back)
    with pytest.raises(UserError, match="cannot be captured .RuntimeError: operation not permitted.*--step-mode eager"):
        model.train_step(batch(0), wrapper)
    monkeypatch.setattr(graphed, "MOST_GRAPHS", 1)
    with pytest.raises(UserError, match="more than 1 combinations of batch shapes"):
        model.train_step(batch(0, HIGH), wrapper)


@pytest.mark.parametrize(
    ("kind", "launcher", "counts", "message"),
    [
        ("cpu", "none", 1, "needs --device cuda, this is cpu"),
        ("npu", "none", 1, "needs --device cuda, this is npu"),
        ("cuda", "pytorch", 1, "not together with DDP"),
        ("cuda", "none", 2, r"accumulated gradients \(accumulative_counts=2\)"),
    ],
)
def test_refused_at_the_start(kind, launcher, counts, message):
    with pytest.raises(UserError, match=f"--step-mode graph: .*{message}.*--step-mode eager"):
        step_mode.check_graph(device.ACCELERATORS[kind], launcher, counts)
    step_mode.check_graph(device.ACCELERATORS["cuda"], "none", 1)


def test_the_capture_itself_with_torch_cuda_replaced(monkeypatch):
    """Streams, pool and graph are used as torch's documentation requires; a tape replaces the graph itself."""
    calls, here = [], mock.Mock(name="current stream")
    side = mock.Mock(name="side stream")
    side.wait_stream.side_effect = lambda stream: calls.append(("side waits", stream))
    here.wait_stream.side_effect = lambda stream: calls.append(("here waits", stream))

    class Graph:
        def replay(self):
            calls.append(("replay", self))
            self.tape.play()

    @contextmanager
    def graph(target, pool, stream, capture_error_mode):
        calls.append(("capture", pool, stream, capture_error_mode))
        with Tape() as target.tape:
            yield
        target.tape.rewind()

    replacements = {
        "Stream": lambda: side,
        "current_stream": lambda: here,
        "graph_pool_handle": lambda: (0, 7),
        "CUDAGraph": Graph,
        "graph": graph,
        "stream": lambda stream: nullcontext(),
    }
    for name, value in replacements.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(graphed, "WARM_UP", 1)
    one, two = ready(), ready()
    first, second = sgd(one), sgd(two)
    graphed.graph_step(two, second, lambda line: None)
    for size in (WIDE, HIGH, WIDE, HIGH):
        expected, found = (
            model.train_step(batch(0, size), wrapper) for model, wrapper in ((one, first), (two, second))
        )
        torch.testing.assert_close(found["loss"], expected["loss"].detach())
    warm = [("side waits", here), ("here waits", side)]
    assert calls[:4] == warm * 2
    captures = [call for call in calls if call[0] == "capture"]
    assert captures == [("capture", (0, 7), side, "thread_local")] * 2
    assert [call[0] for call in calls[4:]] == ["capture", "replay"] * 2


def test_torch_has_what_the_capture_asks_for():
    assert {"pool", "stream", "capture_error_mode"} <= inspect.signature(torch.cuda.graph.__init__).parameters.keys()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("build", "scale"), [(sgd, "dynamic"), (adamw, 32.0)])
def test_real_graphs_take_the_steps_of_eager(build, scale, monkeypatch):
    monkeypatch.setattr(graphed, "WARM_UP", 2)
    results = []
    for mode in ("eager", "graph"):
        model, lines = ready().cuda(), []
        wrapper = build(model, loss_scale=scale)
        if mode == "graph":
            graphed.graph_step(model, wrapper, lines.append)
        plan = [WIDE, HIGH, WIDE, HIGH, WIDE, HIGH, WIDE, HIGH]
        steps = run(model, wrapper, plan, [2**-10, 2**-10, 2**-11, 2**-11, 2**-10, None, 0.0, 2**-10])
        results.append([[float(shown["loss"]), float(bad)] for shown, bad, *_ in steps])
    assert len(lines) == 2
    assert [bad for _, bad in results[1]] == [bad for _, bad in results[0]]
    for (loss, _), (expected, _) in zip(results[1], results[0], strict=True):
        assert loss == pytest.approx(expected, rel=0.02, nan_ok=True)
