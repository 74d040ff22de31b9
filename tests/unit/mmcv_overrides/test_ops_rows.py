"""The sparse product behind RoIAlign and deformable convolution, in the fused and in the general form."""

import pytest
import torch

from mmcv_overrides.ops import rows


@pytest.fixture(params=["fused", "general"])
def form(request, monkeypatch):
    if request.param == "general":
        monkeypatch.setattr(rows, "FUSED_DEVICES", ())


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(11, 3, generator=generator, dtype=torch.float64)
    index = torch.randint(0, 9, (20, 4), generator=generator)  # rows 9 and 10 are never used
    weight = torch.randn(20, 4, generator=generator, dtype=torch.float64)
    matrix = torch.zeros(20, 11, dtype=torch.float64).scatter_add_(1, index, weight)
    return table, index, weight, matrix


def test_gather_is_the_sparse_product(form, problem):
    table, index, weight, matrix = problem
    torch.testing.assert_close(rows.gather_rows(table, index, weight), matrix @ table)


def test_scatter_is_its_transpose(form, problem):
    _, index, weight, matrix = problem
    values = torch.randn(20, 3, dtype=torch.float64)
    torch.testing.assert_close(rows.scatter_rows(values, index, weight, 11), matrix.T @ values)


def test_gradients(form, problem):
    table, index, weight, _ = problem
    assert torch.autograd.gradcheck(
        lambda t, w: rows.WeightedRows.apply(t, index, w), (table.requires_grad_(), weight.requires_grad_())
    )


def test_nothing_to_sum(form):
    table, index, weight = torch.ones(5, 2), torch.zeros(0, 4, dtype=torch.int64), torch.zeros(0, 4)
    assert rows.gather_rows(table, index, weight).shape == (0, 2)
    assert torch.equal(rows.scatter_rows(torch.zeros(0, 2), index, weight, 5), torch.zeros(5, 2))
