"""``--step-mode compile``: one graph per shape, losses and gradients equal to those of eager, clear errors."""

import copy

import pytest
import torch

from fcos_train.config import step_mode
from fcos_train.engine import compiled
from fcos_train.models.fast.fold_bn import fold_frozen_bn
from fcos_train.models.fast.group_norm import quick_group_norm
from mmcv_overrides import device
from mmcv_overrides.errors import UserError
from tests.support.steps import batch, sgd, small_model


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def ready(name):
    model = small_model(name)
    fold_frozen_bn(model)
    quick_group_norm(model)
    return model


@pytest.mark.parametrize("merge", [False, True])
def test_running_statistics_of_a_graph(merge):
    """BatchNorm per level, with and without the canvas: the graph updates the statistics of each level like eager."""
    model = ready("fcos-bn")
    model.bbox_head.merge_levels = merge
    eager, wrapper = copy.deepcopy(model), sgd(model)
    compiled.compile_losses(model, [].append, "aot_eager")
    for seed in range(2):
        assert_same(*(losses_and_gradients(part, wrapper, batch(seed)) for part in (model, eager)))
    for name, value in eager.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), value, rtol=1e-5, atol=1e-6)
    assert int(model.bbox_head.cls_convs[0].norm[4].num_batches_tracked) == 2


def losses_and_gradients(model, wrapper, data):
    model.zero_grad()
    with wrapper.optim_context(model):
        values = model(**model.data_preprocessor(data, True), mode="loss")
    model.parse_losses(values)[0].backward()
    return values, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found, expected):
    (values, gradients), (others, reference) = found, expected
    for key, value in others.items():
        torch.testing.assert_close(values[key], value, rtol=1e-5, atol=1e-7)
    assert gradients.keys() == reference.keys()
    for key, gradient in reference.items():
        limit = 1e-4 * gradient.abs().max().item() + 1e-7
        assert (gradients[key] - gradient).abs().max().item() <= limit, key


@pytest.mark.parametrize(
    ("name", "level", "backend"),
    [
        ("fcos-gn", "O0", "aot_eager"),
        ("fcos-bn", "O1", "eager"),
        ("fcos-bn", "O0", "aot_eager"),
        ("fcos-centre", "O0", "eager"),
        ("fsaf", "O0", "eager"),
        pytest.param("fcos-gn", "O0", "inductor", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
        pytest.param("fcos-plain", "O0", "inductor", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
        pytest.param("fsaf", "O0", "inductor", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_one_graph_with_the_losses_and_gradients_of_eager(name, level, backend):
    model, lines = ready(name), []
    names = list(model.state_dict())
    wrapper = sgd(model, opt_level=level, amp_dtype="bf16" if level == "O1" else None)
    batches = [batch(0, objects=(3, 0)), batch(1, objects=(1, 5))]
    expected = [losses_and_gradients(copy.deepcopy(model), wrapper, data) for data in batches]
    compiled.compile_losses(model, lines.append, backend)
    for data, reference in zip(batches, expected, strict=True):  # other images, boxes and counts: the same graph
        assert_same(losses_and_gradients(model, wrapper, data), reference)
    assert len(lines) == 1 and lines[0].startswith("compiled for 2 x 64x96, 8 places for objects, in ")
    assert list(model.state_dict()) == names


def test_a_graph_for_each_shape_and_rung_and_none_for_other_numbers_of_objects():
    model, lines = ready("fcos-gn"), []
    wrapper = sgd(model)
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph

    compiled.compile_losses(model, lines.append, count)
    for size, objects in (
        ((64, 96), (3, 0)),
        ((64, 96), (8, 1)),
        ((96, 64), (0, 0)),
        ((64, 96), (9, 2)),
        ((64, 96), (2, 2)),
    ):
        losses_and_gradients(model, wrapper, batch(0, size, objects))
    assert len(graphs) == len(lines) == 3
    assert [line.rsplit(",", 1)[0] for line in lines] == [
        "compiled for 2 x 64x96, 8 places for objects",
        "compiled for 2 x 96x64, 8 places for objects",
        "compiled for 2 x 64x96, 16 places for objects",
    ]


def test_prediction_and_copies_stay_as_they_are():
    model = ready("fcos-gn")
    compiled.compile_losses(model, print, "eager")
    twin = copy.deepcopy(model)  # as an EMA makes one
    assert twin.loss.model is twin
    model.eval()
    with torch.no_grad():
        (sample,) = model.test_step({"inputs": [torch.zeros(3, 64, 96)], "data_samples": [batch(0)["data_samples"][0]]})
    assert "pred_instances" in sample


def test_what_does_not_fit_into_one_graph_is_an_error_and_never_runs_uncompiled(monkeypatch):
    model = ready("fcos-gn")

    def loss(self, images, objects):
        torch._dynamo.graph_break()
        return {"loss": images.sum()}

    monkeypatch.setattr(type(model), "loss", loss, raising=False)
    compiled.compile_losses(model, print, "eager")
    with pytest.raises(UserError, match=r"--step-mode compile: torch.compile failed \(.*--step-mode eager"):
        losses_and_gradients(model, sgd(model), batch(0))


def test_too_many_shapes_are_an_error(monkeypatch):
    model = ready("fcos-gn")
    monkeypatch.setattr(compiled, "MOST_GRAPHS", 0)
    compiled.compile_losses(model, print, "eager")
    with pytest.raises(UserError, match="more than 0 shapes"):
        losses_and_gradients(model, sgd(model), batch(0))


def test_lists_of_samples_are_refused():
    model = ready("fcos-gn")
    compiled.compile_losses(model, print, "eager")
    with pytest.raises(UserError, match="batches of fixed shape, got list"):
        model.loss(torch.zeros(1, 3, 64, 64), [])


@pytest.mark.parametrize(
    ("kind", "variables", "message"),
    [
        ("npu", {}, "not covered on npu"),
        ("cpu", {"CXX": "no-such-compiler -O2"}, "no no-such-compiler"),
        ("cpu", {"TORCHDYNAMO_DISABLE": "1"}, "unset it"),
        ("cpu", {"PATH": ""}, "there is no"),
    ],
)
def test_refused_at_the_start(kind, variables, message, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"--step-mode compile: .*{message}.*--step-mode eager"):
        step_mode.check_compile(device.ACCELERATORS[kind])
