"""PSA masks: each pair of places by its definition, both directions, gradients."""

import pytest
import torch


@pytest.mark.parametrize("kind", ["collect", "distribute"])
@pytest.mark.parametrize("mask", [(3, 5), (7, 3)])
def test_equals_its_definition(kind, mask):
    from mmcv.ops import PSAMask

    torch.manual_seed(0)
    height, width = 4, 3
    input = torch.randn(2, mask[0] * mask[1], height, width, dtype=torch.float64, requires_grad=True)
    out = PSAMask(kind, mask)(input)
    expected = torch.zeros(2, height * width, height, width, dtype=torch.float64)
    for y, x, j, i in torch.cartesian_prod(*map(torch.arange, (height, width, *mask))).tolist():
        row, column = y + j - (mask[0] - 1) // 2, x + i - (mask[1] - 1) // 2
        if 0 <= row < height and 0 <= column < width:
            weight = input[:, j * mask[1] + i, y, x].detach()
            if kind == "collect":
                expected[:, row * width + column, y, x] = weight
            else:
                expected[:, y * width + x, row, column] = weight
    torch.testing.assert_close(out, expected)
    assert torch.autograd.gradcheck(PSAMask(kind, mask), input, fast_mode=True)
