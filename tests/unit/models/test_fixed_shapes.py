"""The losses of both heads as one program: no host sync, operators and shapes independent of the objects, one graph."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fcos_train.models.fast.towers import by_levels
from tests.support.heads import FCOS_TRICKS, WIDE_REGIONS, Scene, fcos_pair, fsaf_pair, padded

SYNCS = (
    "nonzero",
    "_local_scalar_dense",
    "masked_select",
    "unique",
    "_to_cpu",
    "item",
    "is_nonzero",
    "masked_scatter",
)


class Trace(TorchDispatchMode):
    """Counts operators with dtype and shape of their tensors, and lists those that need a value on the host."""

    def __init__(self):
        super().__init__()
        self.signatures = Counter()
        self.syncs = []
        self.doubles = []
        self.views = {"empty", "empty_like", "empty_strided", "new_empty"}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
        name = func._schema.name.removeprefix("aten::")
        self.signatures[name, tuple((tensor.dtype, tuple(tensor.shape)) for tensor in tensors)] += 1
        aliases = [output.alias_info for output in func._schema.returns]
        if aliases and all(alias is not None and not alias.is_write for alias in aliases):
            self.views.add(name)
        indexed = name in ("index", "index_put", "index_put_", "_unsafe_index")
        by_mask = indexed and any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        tags = {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output}
        if by_mask or tags & set(func.tags) or any(word in name for word in SYNCS):
            self.syncs.append(name)
        if any(tensor.dtype == torch.float64 for tensor in tensors):
            self.doubles.append(name)
        return result

    @property
    def launches(self):
        return sum(count for (name, _), count in self.signatures.items() if name not in self.views)


HEADS = {
    "fcos": lambda: fcos_pair()[0],
    "fcos with all tricks": lambda: fcos_pair(**FCOS_TRICKS)[0],
    "fsaf": lambda: fsaf_pair(assigner=WIDE_REGIONS)[0],
}
# Operators that do work, forward and backward; 2 (FSAF: 5) of them read labels, counts and sizes from the padded table.
BUDGET = {"fcos": 127, "fcos with all tricks": 143, "fsaf": 215}


def _step(head, feats, objects):
    losses = head.loss_of_objects(*by_levels(head, head(feats)), objects)
    total = sum(value for name, value in losses.items() if "loss" in name)
    total.backward()
    return losses


def _traced_loss(head, scene):
    """Trace of the loss alone, forward and backward, from detached maps."""
    maps = [[level.detach().requires_grad_() for level in kind] for kind in head(scene.feats)]
    objects = padded(scene)
    head.loss_of_objects(*by_levels(head, maps), objects)  # creates the cached constants of this size
    with Trace() as trace:
        losses = head.loss_of_objects(*by_levels(head, maps), objects)
        total = torch.stack([value for name, value in losses.items() if "loss" in name]).sum()
        torch.autograd.grad(total, [level for kind in maps for level in kind])  # no accumulation into leaves
    return trace, objects.places


@pytest.mark.parametrize("name", HEADS)
def test_no_host_sync_and_no_double(name):
    trace, _ = _traced_loss(HEADS[name](), Scene("mixed"))
    assert trace.syncs == []
    assert trace.doubles == []
    assert 0 < trace.launches <= BUDGET[name]


@pytest.mark.parametrize("name", HEADS)
def test_operators_and_shapes_do_not_depend_on_the_objects(name):
    head = HEADS[name]()
    scenes = [Scene(scene) for scene in ("none", "some", "outside")]
    traces = [_traced_loss(head, scene) for scene in scenes]
    assert {size for _, size in traces} == {8}
    assert traces[0][0].signatures == traces[1][0].signatures == traces[2][0].signatures


def test_the_tracer_sees_syncs():
    with Trace() as trace:
        x = torch.arange(4.0)
        x[x > 1] = 0
        x[x > 1]
        x.sum().item()
        x.nonzero()
    assert {"_local_scalar_dense", "nonzero", "index"} <= set(trace.syncs) and len(trace.syncs) >= 4


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("warm", [False, True])
def test_one_graph(name, warm):
    head = HEADS[name]()
    scene = Scene("some", size=(64, 96 if warm else 64))
    objects = padded(scene)
    expected = _step(head, scene.inputs(), objects) if warm else None
    torch._dynamo.reset()
    head.zero_grad()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(feats, objects):
        return head.loss_of_objects(*by_levels(head, head(feats)), objects)

    losses = step(scene.inputs(), objects)
    sum(value for key, value in losses.items() if "loss" in key).backward()
    gradients = {key: parameter.grad.clone() for key, parameter in head.named_parameters()}
    head.zero_grad()
    expected = _step(head, scene.inputs(), objects)
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value, rtol=1e-5, atol=1e-7)
    for key, parameter in head.named_parameters():
        torch.testing.assert_close(gradients[key], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", HEADS)
def test_every_parameter_has_a_gradient_without_objects(name):
    head = HEADS[name]()
    scene = Scene("none")
    _step(head, scene.inputs(), padded(scene))
    assert all(parameter.grad is not None for parameter in head.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_slices_over_the_objects_are_exact(name, monkeypatch):
    from fcos_train.geometry import assignment

    head = HEADS[name]()
    scene = Scene("many")
    maps = head(scene.feats)
    objects = padded(scene)
    whole = head.loss_of_objects(*by_levels(head, maps), objects)
    monkeypatch.setattr(assignment, "MAX_PAIRS", 4000)
    sliced = head.loss_of_objects(*by_levels(head, maps), objects)
    for key, value in whole.items():
        assert sliced[key] == value
