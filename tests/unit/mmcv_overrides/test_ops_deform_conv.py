"""Deformable convolution: zero and whole-pixel offsets against ``conv2d``, gradients by finite differences."""

import pytest
import torch
import torch.nn.functional as F

from mmcv_overrides.errors import UserError
from mmcv_overrides.ops import rows

GEOMETRY = [  # stride, padding, dilation, groups, deform_groups
    (1, 1, 1, 1, 1),
    (2, 1, 1, 2, 1),
    ((1, 2), (2, 1), (2, 1), 1, 2),
    (1, 0, 1, 2, 4),
]


def problem(geometry, dtype=torch.float32, kernel=(3, 2)):
    stride, padding, dilation, groups, deform_groups = geometry
    torch.manual_seed(0)
    input = torch.randn(2, 4, 7, 6, dtype=dtype)
    weight = torch.randn(6, 4 // groups, *kernel, dtype=dtype)
    plain = F.conv2d(input, weight, None, stride, padding, dilation, groups)
    taps = deform_groups * kernel[0] * kernel[1]
    offset = torch.zeros(2, 2 * taps, *plain.shape[2:], dtype=dtype)
    mask = torch.ones(2, taps, *plain.shape[2:], dtype=dtype)
    return input, weight, offset, mask, plain


@pytest.mark.parametrize("geometry", GEOMETRY)
def test_without_offset_it_is_a_convolution(geometry):
    from mmcv.ops import deform_conv2d, modulated_deform_conv2d

    input, weight, offset, mask, plain = problem(geometry)
    bias = torch.randn(6)
    torch.testing.assert_close(deform_conv2d(input, offset, weight, *geometry), plain)
    got = modulated_deform_conv2d(input, offset, mask / 2, weight, bias, *geometry)
    torch.testing.assert_close(got, plain / 2 + bias[:, None, None])
    got = modulated_deform_conv2d(input, offset, mask, weight, None, *geometry)
    torch.testing.assert_close(got, plain)


def test_offset_of_whole_pixels_shifts_the_input():
    from mmcv.ops import deform_conv2d

    input, weight, offset, _, _ = problem((1, 1, 1, 1, 1))
    offset[:, 0::2], offset[:, 1::2] = 1, -2  # one pixel down, two to the left
    shifted = F.pad(input, (3, 3, 3, 3))[:, :, 3:12, 0:8]  # padded by 1, one row later, two columns earlier
    torch.testing.assert_close(deform_conv2d(input, offset, weight, 1, 1), F.conv2d(shifted, weight))


@pytest.mark.parametrize(("shift", "expected"), [(-0.25, 0.75), (-1.0, 0.0), (0.5, 1.0), (2.25, 0.75), (3.0, 0.0)])
def test_border_fades_to_zero_within_one_pixel(shift, expected):
    from mmcv.ops import deform_conv2d

    input, weight = torch.ones(1, 1, 3, 3), torch.ones(1, 1, 1, 1)
    offset = torch.zeros(1, 2, 3, 3)
    offset[:, 0] = shift
    assert deform_conv2d(input, offset, weight)[0, 0, 0, 1].item() == pytest.approx(expected)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRY)
def test_gradients(monkeypatch, geometry, fused):
    from mmcv.ops import deform_conv2d, modulated_deform_conv2d

    if not fused:
        monkeypatch.setattr(rows, "FUSED_DEVICES", ())
    input, weight, offset, mask, _ = problem(geometry, torch.float64, kernel=(2, 2))
    input, weight = input[:, :, :4, :4].contiguous(), weight[:2]
    groups = geometry[3]
    shape = F.conv2d(input, weight, None, *geometry[:4]).shape[2:]
    offset = torch.randn(2, offset.size(1), *shape, dtype=torch.float64)
    mask = torch.rand(2, mask.size(1), *shape, dtype=torch.float64)
    bias = torch.randn(2, dtype=torch.float64)
    assert weight.size(0) % groups == 0
    leaves = [t.requires_grad_() for t in (input, offset, mask, weight, bias)]
    options = {"fast_mode": True, "atol": 1e-4}
    assert torch.autograd.gradcheck(lambda *a: modulated_deform_conv2d(*a, *geometry), leaves, **options)
    leaves = [input, offset, weight]
    assert torch.autograd.gradcheck(lambda *a: deform_conv2d(*a, *geometry), leaves, **options)


def test_only_the_wanted_gradients_are_needed():
    from mmcv.ops import deform_conv2d

    input, weight, offset, _, _ = problem((1, 1, 1, 1, 1))
    out = deform_conv2d(input, offset, weight.requires_grad_(), 1, 1)
    out.sum().backward()
    expected = torch.autograd.grad(F.conv2d(input, weight, None, 1, 1).sum(), weight)[0]
    torch.testing.assert_close(weight.grad, expected)


def test_under_autocast_the_layer_runs_in_bfloat16_and_stays_close():
    from mmcv.ops import ModulatedDeformConv2dPack

    torch.manual_seed(0)
    layer = ModulatedDeformConv2dPack(8, 4, 3, padding=1)
    input = torch.randn(1, 8, 9, 9, requires_grad=True)
    exact = layer(input)
    with torch.autocast("cpu", torch.bfloat16):
        rough = layer(input)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.02)
    rough.float().sum().backward()
    assert input.grad.isfinite().all() and layer.weight.grad.dtype == torch.float32


def test_offset_that_is_not_finite_samples_nothing():
    from mmcv.ops import deform_conv2d

    input, weight = torch.ones(1, 1, 3, 3, requires_grad=True), torch.ones(1, 1, 1, 1)
    offset = torch.zeros(1, 2, 3, 3)
    offset[0, 0, 1, 1] = float("nan")
    out = deform_conv2d(input, offset, weight)
    assert out.flatten().tolist() == [1, 1, 1, 1, 0, 1, 1, 1, 1]
    assert torch.equal(torch.autograd.grad(out.sum(), input)[0], out.detach())


def test_a_larger_offset_is_read_flat_as_dyhead_needs_it():
    from mmcv.ops import modulated_deform_conv2d

    torch.manual_seed(2)
    input, weight = torch.randn(2, 4, 5, 6), torch.randn(3, 4, 3, 3)
    offset, mask = torch.randn(2, 18, 9, 11), torch.rand(2, 9, 9, 11)
    # The memory of an image begins with the 18 (or 9) maps of 5 x 6.
    short = [t.reshape(2, -1)[:, : t.size(1) * 30].reshape(2, -1, 5, 6).clone() for t in (offset, mask)]
    full = [t.requires_grad_() for t in (input, offset, mask, weight)]
    out = modulated_deform_conv2d(*full, None, 1, 1)
    gradients = torch.autograd.grad(out, full, torch.ones_like(out).cumsum(3))
    used = [input, *(t.requires_grad_() for t in short), weight]
    expected = modulated_deform_conv2d(*used, None, 1, 1)
    torch.testing.assert_close(out, expected)
    for got, want in zip(gradients, torch.autograd.grad(expected, used, torch.ones_like(out).cumsum(3)), strict=True):
        got, want = got.flatten(1), want.flatten(1)
        torch.testing.assert_close(got[:, : want.size(1)], want)
        assert not got[:, want.size(1) :].any()


def test_an_offset_for_too_few_places_is_refused_with_both_sizes():
    from mmcv.ops import modulated_deform_conv2d

    offset, mask = torch.zeros(1, 18, 4, 7), torch.zeros(1, 9, 4, 7)
    with pytest.raises(UserError, match=r"offset and mask are 4 x 7, the output is 8 x 8"):
        modulated_deform_conv2d(torch.zeros(1, 1, 8, 8), offset, mask, torch.zeros(1, 1, 3, 3), None, 1, 1)
