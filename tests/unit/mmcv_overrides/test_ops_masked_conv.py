"""Masked convolution: equals the plain one at the chosen places and is 0 elsewhere."""

import pytest
import torch
import torch.nn.functional as F


@pytest.mark.parametrize(("kernel", "padding"), [((3, 3), 1), ((1, 1), 0), ((3, 5), (1, 2))])
def test_equals_the_convolution_at_the_chosen_places(kernel, padding):
    from mmcv.ops import masked_conv2d

    torch.manual_seed(0)
    input, weight, bias = torch.randn(1, 3, 6, 7), torch.randn(4, 3, *kernel), torch.randn(4)
    mask = torch.rand(1, 6, 7) > 0.6
    mask[0, 0, 0] = mask[0, 5, 6] = True
    out = masked_conv2d(input, mask, weight, bias, padding)
    torch.testing.assert_close(out, F.conv2d(input, weight, bias, padding=padding) * mask)
    assert mask.any() and not mask.all()


def test_nothing_chosen():
    from mmcv.ops import MaskedConv2d

    layer = MaskedConv2d(2, 3, 3, padding=1)
    assert not layer(torch.ones(1, 2, 4, 4), torch.zeros(1, 4, 4)).any()


def test_a_window_beyond_the_padding_sees_zeros():
    from mmcv_overrides.ops.masked_conv import masked_im2col_forward

    image, place = torch.ones(1, 1, 2, 2), torch.tensor([1])
    columns = torch.empty(9, 1)
    masked_im2col_forward(image, place, place, columns, 3, 3, 0, 0)
    assert columns.flatten().tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0]
