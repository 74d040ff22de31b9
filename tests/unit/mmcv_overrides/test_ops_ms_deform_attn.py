"""Deformable attention: against mmcv's torch form, which CPUs use; both forms of ours; chunks; gradients."""

import pytest
import torch

from mmcv_overrides.ops import ms_deform_attn as portable
from mmcv_overrides.ops import rows


@pytest.fixture(params=["rows", "grid_sample"])
def form(request, monkeypatch):
    if request.param == "grid_sample":
        monkeypatch.setattr(rows, "FUSED_DEVICES", ())


def problem(dtype=torch.float64, queries=5):
    torch.manual_seed(0)
    shapes = torch.tensor([(6, 4), (3, 2)])
    start = torch.tensor([0, 24])
    value = torch.randn(2, 30, 3, 4, dtype=dtype, requires_grad=True)
    places = torch.rand(2, queries, 3, 2, 2, 2, dtype=dtype) * 1.4 - 0.2  # some are outside
    weights = torch.rand(2, queries, 3, 2, 2, dtype=dtype)
    return value, shapes, start, places.requires_grad_(), weights.requires_grad_()


def attend(value, shapes, start, places, weights):
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    return MultiScaleDeformableAttnFunction.apply(value, shapes, start, places, weights, 64)


@pytest.mark.parametrize("budget", [1 << 21, 100])
def test_equals_the_torch_form_of_mmcv_with_gradients(form, monkeypatch, budget):
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    monkeypatch.setattr(portable, "TAP_BUDGET", budget)  # 100: two queries at a time
    value, shapes, start, places, weights = problem()
    leaves = (value, places, weights)
    got = attend(value, shapes, start, places, weights)
    want = multi_scale_deformable_attn_pytorch(value, shapes, places, weights)
    torch.testing.assert_close(got, want)
    grad = torch.randn_like(got)
    gradients = [torch.autograd.grad(out, leaves, grad) for out in (got, want)]
    torch.testing.assert_close(*gradients)


def test_one_point_on_a_pixel_center():
    # center of pixel (1, 2) of a 2 x 4 level: (2.5 / 4, 1.5 / 2)
    value = torch.arange(8.0).view(1, 8, 1, 1)
    places = torch.tensor([2.5 / 4, 1.5 / 2]).view(1, 1, 1, 1, 1, 2)
    out = attend(value, torch.tensor([[2, 4]]), torch.tensor([0]), places, torch.full((1, 1, 1, 1, 1), 0.5))
    assert out.item() == 0.5 * 6


def test_half_precision_is_computed_in_fp32(form):
    value, shapes, start, places, weights = problem(torch.float32)
    exact = attend(value, shapes, start, places, weights)
    half = attend(value.half(), shapes, start, places, weights)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), exact, rtol=1e-2, atol=1e-2)
    assert torch.autograd.grad(half.float().sum(), value)[0].isfinite().all()


def test_no_query():
    value, shapes, start, places, weights = problem(queries=0)
    out = attend(value, shapes, start, places, weights)
    assert out.shape == (2, 0, 12)
    assert not torch.autograd.grad(out.sum(), value)[0].any()
