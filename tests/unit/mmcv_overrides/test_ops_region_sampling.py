"""Deformable RoI pooling, rotated RoIAlign, precise RoI pooling: closed forms on a ramp, equality with RoIAlign."""

import math

import pytest
import torch

from mmcv_overrides.ops import regions, rows


def ramp(dtype=torch.float64):
    """Feature value ``100 b + 2 y + 3 x + 5`` at pixel (y, x) of image b."""
    y, x = torch.meshgrid(torch.arange(30), torch.arange(40), indexing="ij")
    return (100 * torch.arange(2)[:, None, None, None] + 2 * y + 3 * x + 5)[:, :1].to(dtype)


def noise():
    torch.manual_seed(0)
    return torch.randn(2, 3, 8, 9, dtype=torch.float64, requires_grad=True)


ROIS = torch.tensor([[1, 2.2, 1.3, 11.7, 9.4], [0, -3, 2, 5, 17], [0, 4, 4, 4, 9]], dtype=torch.float64)


@pytest.fixture(params=["fused", "gathers"])
def form(request, monkeypatch):
    if request.param == "gathers":
        monkeypatch.setattr(rows, "FUSED_DEVICES", ())


@pytest.mark.parametrize("ratio", [0, 2])
def test_deformable_pooling_without_offsets_is_roi_align(ratio):
    from mmcv.ops import deform_roi_pool, roi_align

    input = noise()
    got = deform_roi_pool(input, ROIS, None, (2, 3), 0.5, ratio, 0.1)
    want = roi_align(input, ROIS, (2, 3), 0.5, ratio, "avg", True)
    torch.testing.assert_close(got, want)
    gradients = [torch.autograd.grad((out * out.detach().cos()).sum(), input)[0] for out in (got, want)]
    torch.testing.assert_close(*gradients)


def test_an_offset_shifts_a_bin_by_its_part_of_the_region():
    from mmcv.ops import deform_roi_pool

    rois = torch.tensor([[0, 8, 10, 28, 18]], dtype=torch.float64)  # 20 wide, 8 high
    offset = torch.zeros(1, 2, 2, 2, dtype=torch.float64)
    offset[0, 0, 1, 0], offset[0, 1, 1, 0] = 0.5, -0.25  # (x, y) of the bin in row 1, column 0
    plain = deform_roi_pool(ramp(), rois, None, 2, 1.0, 2, 0.1)
    moved = deform_roi_pool(ramp(), rois, offset, 2, 1.0, 2, 0.1)
    # 0.1 * 20 * 0.5 = 1 to the right, 0.1 * 8 * 0.25 = 0.2 up
    expected = torch.tensor([[0, 0], [3 * 1 - 2 * 0.2, 0]], dtype=torch.float64)
    torch.testing.assert_close((moved - plain)[0, 0], expected)


@pytest.mark.parametrize("ratio", [0, 2])
def test_gradients_of_deformable_pooling(form, ratio):
    from mmcv.ops import deform_roi_pool

    offset = torch.randn(3, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    leaves = (noise(), offset)
    assert torch.autograd.gradcheck(
        lambda x, o: deform_roi_pool(x, ROIS, o, (2, 3), 0.5, ratio, 0.3), leaves, fast_mode=True
    )


def test_the_modulated_layer_trains():
    from mmcv.ops import ModulatedDeformRoIPoolPack

    torch.manual_seed(0)
    layer = ModulatedDeformRoIPoolPack((2, 2), 3, 8, spatial_scale=0.5, sampling_ratio=2)
    input = torch.randn(1, 3, 9, 9, requires_grad=True)
    layer(input, torch.tensor([[0, 2.0, 2, 14, 12]])).square().sum().backward()
    for tensor in (input, layer.offset_fc[-1].weight, layer.mask_fc[-2].weight):
        assert tensor.grad.isfinite().all() and tensor.grad.abs().sum() > 0


def as_rotated(rois, angle=0.0):
    image, x1, y1, x2, y2 = rois.unbind(1)
    return torch.stack([image, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, torch.full_like(x1, angle)], 1)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
def test_rotated_by_zero_is_roi_align(ratio, aligned):
    from mmcv.ops import roi_align, roi_align_rotated

    input, rois = noise(), ROIS[:2]  # without aligned, a small region is widened about its center, not its corner
    got = roi_align_rotated(input, as_rotated(rois), (2, 3), 0.5, ratio, aligned)
    torch.testing.assert_close(got, roi_align(input, rois, (2, 3), 0.5, ratio, "avg", aligned))


@pytest.mark.parametrize("clockwise", [True, False])
def test_rotated_average_on_a_ramp_is_the_value_at_the_turned_center_of_the_bin(clockwise):
    from mmcv.ops import roi_align_rotated

    angle = math.pi / 6
    out = roi_align_rotated(
        ramp(), torch.tensor([[1, 20, 14, 12, 8, angle]], dtype=torch.float64), 2, 1.0, 2, True, clockwise
    )
    sign = 1 if clockwise else -1
    for p, y in enumerate((-2, 2)):
        for q, x in enumerate((-3, 3)):
            # y points down, so that the x axis turns towards the y axis clockwise
            turned_x = 19.5 + x * math.cos(angle) - sign * y * math.sin(angle)
            turned_y = 13.5 + y * math.cos(angle) + sign * x * math.sin(angle)
            assert out[0, 0, p, q].item() == pytest.approx(100 + 2 * turned_y + 3 * turned_x + 5)


def test_gradient_of_rotated_roi_align_and_chunks(form, monkeypatch):
    from mmcv.ops import roi_align_rotated

    input, rois = noise(), as_rotated(ROIS, 0.7)
    whole = roi_align_rotated(input, rois, (2, 3), 0.5, 0)
    assert torch.autograd.gradcheck(lambda x: roi_align_rotated(x, rois, (2, 3), 0.5, 0), input, fast_mode=True)
    monkeypatch.setattr(regions, "TAP_BUDGET", 1)
    torch.testing.assert_close(roi_align_rotated(input, rois, (2, 3), 0.5, 0), whole)


def precise(input, rois, size, scale=1.0):
    """The operator with gradients of input and regions; the public function takes fp32 only."""
    from mmcv_overrides.ops import prroi_pool as portable

    class Pool(torch.autograd.Function):
        @staticmethod
        def forward(ctx, input, rois):
            output = input.new_zeros(len(rois), input.size(1), *size)
            portable.prroi_pool_forward(input, rois, output, *size, scale)
            ctx.save_for_backward(input, rois, output)
            return output

        @staticmethod
        def backward(ctx, grad):
            input, rois, output = ctx.saved_tensors
            grads = torch.zeros_like(input), torch.zeros_like(rois)
            portable.prroi_pool_backward(grad, rois, grads[0], *size, scale)
            portable.prroi_pool_coor_backward(output, grad, input, rois, grads[1], *size, scale)
            return grads

    return Pool.apply(input, rois)


def test_precise_mean_of_a_ramp_is_the_value_at_the_center_of_the_bin():
    from mmcv.ops import prroi_pool

    out = prroi_pool(ramp(torch.float32), torch.tensor([[1.0, 8.6, 12.2, 44, 41]]), (2, 3), 0.5)
    for p in range(2):
        for q in range(3):
            y, x = 6.1 + (p + 0.5) * 14.4 / 2, 4.3 + (q + 0.5) * 17.7 / 3
            assert out[0, 0, p, q].item() == pytest.approx(105 + 2 * y + 3 * x, abs=1e-3)


def test_precise_mean_equals_a_dense_integral_and_is_zero_outside():
    input = noise()
    rois = torch.tensor([[0, -1.7, 2.3, 4.1, 9.2]], dtype=torch.float64)
    out = precise(input, rois, (1, 1))
    y, x = (torch.linspace(a, b, 2001, dtype=torch.float64)[:-1] + (b - a) / 4000 for a, b in ((2.3, 9.2), (-1.7, 4.1)))

    def hats(places, count):
        return (1 - (places[:, None] - torch.arange(count)).abs()).clamp(min=0)

    expected = torch.einsum("yi,cij,xj->c", hats(y, 8), input[0], hats(x, 9)) / 4_000_000
    torch.testing.assert_close(out[0, :, 0, 0], expected, rtol=1e-5, atol=1e-6)


def test_gradients_of_precise_pooling(form, monkeypatch):
    rois = torch.tensor([[1, 1.2, 1.3, 6.7, 5.4], [0, -1.3, 2.2, 3.1, 9.8]], dtype=torch.float64)
    input = noise()
    image = rois[:, :1]

    def pool(input, corners):
        return precise(input, torch.cat([image, corners], 1), (2, 3), 0.9)

    leaves = (input, rois[:, 1:].clone().requires_grad_())
    assert torch.autograd.gradcheck(pool, leaves, fast_mode=True)
    monkeypatch.setattr(regions, "TAP_BUDGET", 1)
    assert torch.autograd.gradcheck(pool, leaves, fast_mode=True)


def test_a_region_without_size_gives_zero():
    from mmcv.ops import prroi_pool

    input = torch.ones(1, 1, 4, 4, requires_grad=True)
    rois = torch.tensor([[0, 1.0, 1, 1, 3], [0, 3, 3, 1, 1], [0, float("nan"), 0, 2, 2]], requires_grad=True)
    out = prroi_pool(input, rois, (2, 2), 1.0)
    assert not out.any()
    gradients = torch.autograd.grad(out.sum(), (input, rois))
    assert not gradients[0].any() and not gradients[1][:2].any()
