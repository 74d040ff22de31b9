"""What the trace counts, and the report made of several traces."""

import pytest
import torch
import torch.nn.functional as F

from fcos_train.audit.summary import summarise
from fcos_train.audit.trace import StepTrace


def traced(function) -> StepTrace:
    with StepTrace() as trace:
        function()
    return trace


def test_views_and_allocations_are_no_launches():
    x = torch.ones(2, 3)
    trace = traced(lambda: (x.t()[1:].unsqueeze(0).detach(), torch.empty(3), x + 1))
    assert trace.launches == {"aten::add.Tensor": 1}
    assert trace.operators["aten::t"] == 1


def test_backward_is_counted_too():
    x = torch.ones(2, 3, requires_grad=True)
    trace = traced(lambda: (x.exp() * 2).sum().backward())
    assert trace.launches["aten::exp"] == 1 and trace.launches["aten::mul.Tensor"] >= 2


@pytest.mark.parametrize(
    "reason, function",
    [
        ("a value is read", lambda x: x.sum().item()),
        ("boolean mask", lambda x: x[x > 0]),
        ("boolean mask", lambda x: x.__setitem__(x > 0, 0.0)),
        ("size depends on the data", lambda x: x.nonzero()),
        ("size depends on the data", lambda x: x.unique()),
    ],
)
def test_syncs(reason, function):
    x = torch.randn(5)
    trace = traced(lambda: function(x))
    assert trace.syncs.total() == 1 and reason in next(iter(trace.syncs))


def test_what_waits_for_nothing():
    x, index = torch.randn(5), torch.tensor([0, 2])
    trace = traced(lambda: (x[index], x.masked_fill(x > 0, 0.0), torch.where(x > 0, x, 0.0), x.topk(2)))
    assert trace.syncs.total() == 0


def test_strided_inputs():
    x, weight = torch.randn(1, 4, 8, 8), torch.randn(4, 4, 1, 1)
    dense = traced(lambda: (F.conv2d(x, weight), F.conv2d(x.to(memory_format=torch.channels_last), weight)))
    assert dense.strided["aten::convolution"] == 0
    assert traced(lambda: F.conv2d(x.transpose(2, 3), weight)).strided["aten::convolution"] == 1
    a = torch.randn(4, 6)
    assert traced(lambda: a.t() @ a).strided["aten::mm"] == 0
    assert traced(lambda: a[:, ::2] @ torch.ones(3, 2)).strided["aten::mm"] == 1


def test_float64_but_not_a_scalar_of_it():
    assert traced(lambda: torch.ones(3, dtype=torch.float64) + 1).float64["aten::add.Tensor"] == 1
    assert traced(lambda: torch.ones(3) * torch.tensor(2.0, dtype=torch.float64)).float64.total() == 0


def steps(sizes):
    return [traced(lambda n=n: F.huber_loss(torch.ones(n), torch.zeros(n)).item()) for n in sizes]


def test_report_of_the_steady_state():
    same, varying = summarise(steps([4, 4, 4])), summarise(steps([4, 5, 4]))
    assert (same.new_signatures, same.first_signatures) == (0, 3)
    assert varying.new_signatures == 3
    assert same.launches == 3 and not same.varying_launches
    assert same.host_operators == 1 and same.why["host_operators"] == {"aten::huber_loss": 1}
    assert any("aten::huber_loss" in line for line in same.lines())


def test_limits():
    report = summarise(steps([4, 5]))
    assert report.over({"launches": 3, "syncs": 1, "float64": None}) == []
    assert report.over({"launches": 2, "syncs": 0}) == ["launches: 3, the limit is 2", "syncs: 1, the limit is 0"]
    assert report.over({"graph_breaks": 0}) == ["graph breaks: not known, the limit is 0"]


def test_one_step_is_no_steady_state():
    with pytest.raises(ValueError, match="at least one more"):
        summarise(steps([4]))
