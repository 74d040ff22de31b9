"""BorderAlign: sides in order, ties, borders, gradients."""

import pytest
import torch


def test_each_side_takes_its_own_channels_and_the_largest_of_its_points():
    from mmcv.ops import border_align

    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    # top and bottom grow along x, left and right along y; each in units of its own
    input = torch.stack([x, 10 * y, 100 * x, 1000 * y])[None].requires_grad_()
    box = torch.tensor([[[1.0, 2.0, 6.0, 5.0]]])
    out = border_align(input, box, 10)
    assert out.shape == (1, 1, 1, 4)
    torch.testing.assert_close(out.flatten(), torch.tensor([6.0, 50.0, 600.0, 5000.0]))
    places = torch.autograd.grad(out.sum(), input)[0].nonzero()[:, 1:].tolist()
    # (channel, y, x): top right, bottom left, bottom right twice
    assert places == [[0, 2, 6], [1, 5, 1], [2, 5, 6], [3, 5, 6]]


def test_the_first_of_equal_points_gets_the_gradient():
    from mmcv.ops import border_align

    input = torch.zeros(1, 4, 6, 6, requires_grad=True)
    out = border_align(input, torch.tensor([[[1.0, 1.0, 3.0, 4.0]]]), 2)
    places = torch.autograd.grad(out.sum(), input)[0].nonzero()[:, 1:].tolist()
    assert places == [[0, 1, 1], [1, 1, 1], [2, 4, 3], [3, 4, 3]]


def test_points_beyond_one_pixel_outside_are_zero():
    from mmcv.ops import border_align

    input = torch.full((1, 4, 4, 4), -1.0)
    out = border_align(input, torch.tensor([[[-1.0, 0, -1.0, 2], [-3.0, 0, -1.5, 2]]]), 2)
    # The map is -1 up to one pixel outside; the side of the second box lies beyond on all points.
    assert out[0, 0].tolist() == [[-1, -1, -1, -1], [0, 0, 0, 0]]


@pytest.mark.parametrize("pool_size", [1, 4])
def test_gradient(pool_size):
    from mmcv.ops import border_align

    torch.manual_seed(0)
    input = torch.randn(2, 8, 5, 6, dtype=torch.float64, requires_grad=True)
    corner = 4 * torch.rand(2, 7, 2, dtype=torch.float64) - 0.5
    boxes = torch.cat([corner, corner + 3 * torch.rand(2, 7, 2, dtype=torch.float64)], 2)
    assert torch.autograd.gradcheck(lambda x: border_align(x, boxes, pool_size), input, fast_mode=True)
