"""RoIPool: numbers by hand, regions outside, ties, gradients."""

import pytest
import torch

from mmcv_overrides.ops import regions

MAP = torch.arange(1.0, 17).view(1, 1, 4, 4)


def test_whole_map_in_four_bins():
    from mmcv.ops import roi_pool

    input = MAP.clone().requires_grad_()
    out = roi_pool(input, torch.tensor([[0.0, 0, 0, 3, 3]]), 2, 1.0)
    assert out[0, 0].tolist() == [[6, 8], [14, 16]]
    gradient = torch.autograd.grad(out.sum(), input)[0]
    assert gradient.nonzero()[:, 2:].tolist() == [[1, 1], [1, 3], [3, 1], [3, 3]]


def test_bins_of_three_pixels_overlap_and_the_scale_counts():
    from mmcv.ops import roi_pool

    # pixels 0 to 5 at scale 0.5 are 0 to 3 on the map: two bins of 1.5, rounded outwards
    out = roi_pool(MAP, torch.tensor([[0.0, 0, 0, 5, 5]]), 2, 0.5)
    assert out[0, 0].tolist() == [[6, 7], [10, 11]]


@pytest.mark.parametrize("roi", [[0, 9, 9, 12, 12], [0, 3, 3, 1, 1], [0, float("nan"), 0, 2, 2], [0, -9, -9, -5, -5]])
def test_a_region_without_pixels_gives_zero_and_no_gradient(roi):
    from mmcv.ops import roi_pool

    input = (MAP - 20).requires_grad_()  # negative values: 0 is not their maximum
    out = roi_pool(input, torch.tensor([roi], dtype=torch.float32), 2, 1.0)
    assert not out.any()
    assert not torch.autograd.grad(out.sum(), input)[0].any()


def test_the_first_of_equal_values_gets_the_gradient():
    from mmcv.ops import roi_pool

    input = torch.zeros(1, 1, 3, 3, requires_grad=True)
    out = roi_pool(input, torch.tensor([[0.0, 1, 1, 2, 2]]), 1, 1.0)
    assert torch.autograd.grad(out.sum(), input)[0].nonzero()[:, 2:].tolist() == [[1, 1]]


def test_gradient_and_chunks(monkeypatch):
    from mmcv.ops import roi_pool

    torch.manual_seed(0)
    input = torch.randn(2, 3, 7, 6, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 0, 0, 5, 6], [1, 2, 1, 4, 3], [1, 1, 0, 1, 6], [0, 3, 3, 9, 9]], dtype=torch.float64)
    whole = roi_pool(input, rois, (3, 2), 1.0)
    assert torch.autograd.gradcheck(lambda x: roi_pool(x, rois, (3, 2), 1.0), input, fast_mode=True)
    monkeypatch.setattr(regions, "VALUE_BUDGET", 1)
    assert torch.equal(roi_pool(input, rois, (3, 2), 1.0), whole)


def test_no_region():
    from mmcv.ops import roi_pool

    input = MAP.clone().requires_grad_()
    out = roi_pool(input, torch.zeros(0, 5), 2, 1.0)
    assert out.shape == (0, 1, 2, 2)
    assert not torch.autograd.grad(out.sum(), input)[0].any()
