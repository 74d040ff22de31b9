"""RoIAlign: closed form on a ramp, gradients by finite differences, borders, empty and broken regions."""

import pytest
import torch

from mmcv_overrides.ops import regions, rows
from mmcv_overrides.ops import roi_align as portable


def ramp(batch=2, height=30, width=40):
    """Feature value ``100 b + 2 y + 3 x + 5`` at pixel (y, x) of image b."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.arange(batch)[:, None, None, None]
    return (100 * image + 2 * y + 3 * x + 5)[:, :1].float()


@pytest.mark.parametrize("ratio", [0, 1, 3])
@pytest.mark.parametrize("aligned", [True, False])
def test_average_on_a_ramp_is_the_value_at_the_centre_of_the_bin(ratio, aligned):
    from mmcv.ops import roi_align

    rois = torch.tensor([[1.0, 8, 12, 64, 40], [0, 20, 20, 25, 50]])
    out = roi_align(ramp(), rois, (2, 3), 0.5, ratio, "avg", aligned)
    for region, (image, x1, y1, x2, y2) in enumerate(rois.tolist()):
        for p in range(2):
            for q in range(3):
                y = 0.5 * (y1 + (p + 0.5) * (y2 - y1) / 2) - 0.5 * aligned
                x = 0.5 * (x1 + (q + 0.5) * (x2 - x1) / 3) - 0.5 * aligned
                expected = 100 * image + 2 * y + 3 * x + 5
                assert out[region, 0, p, q].item() == pytest.approx(expected, abs=1e-4)


def test_maximum_on_a_ramp_is_the_last_sampling_point():
    from mmcv.ops import roi_align

    out = roi_align(ramp(), torch.tensor([[0.0, 4, 6, 20, 18]]), (2, 2), 1.0, 2, "max", False)
    # bins 6 x 8, two points an axis, the last at 3/4 of the bin
    expected = [[2 * (6 + 6 * p + 4.5) + 3 * (4 + 8 * q + 6) + 5 for q in (0, 1)] for p in (0, 1)]
    torch.testing.assert_close(out[0, 0], torch.tensor(expected))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("ratio", [0, 2])
def test_gradient(monkeypatch, mode, ratio, fused):
    from mmcv.ops import roi_align

    if not fused:
        monkeypatch.setattr(rows, "FUSED_DEVICES", ())
    torch.manual_seed(0)
    input = torch.randn(2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, -3.0, 1, 9, 6], [1, 2.2, 1.1, 12.7, 9.3], [1, 1, 1, 3, 9]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: roi_align(x, rois, (2, 3), 0.5, ratio, mode, True), input)


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_samples_beyond_the_border_are_the_border_for_one_unit_and_then_zero(mode):
    from mmcv.ops import roi_align

    input = torch.full((1, 1, 4, 4), 7.0)
    places = [-1.1, -1.0, 0.0, 4.0, 4.1]  # the map reaches from 0 to 3
    rois = torch.tensor([[0, place - 0.5, 1, place + 0.5, 2] for place in places])
    out = roi_align(input, rois, 1, 1.0, 1, mode, False)
    assert out.flatten().tolist() == [0.0, 7.0, 7.0, 7.0, 0.0]
    out = roi_align(input, rois[:, [0, 2, 1, 4, 3]], 1, 1.0, 1, mode, False)
    assert out.flatten().tolist() == [0.0, 7.0, 7.0, 7.0, 0.0]


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_empty_and_non_finite_regions_give_zero(mode):
    from mmcv.ops import roi_align

    input = torch.ones(1, 2, 6, 6, requires_grad=True)
    nan, inf = float("nan"), float("inf")
    rois = torch.tensor([[0, 3, 3, 3, 3], [0, nan, 0, 2, 2], [0, 0, 0, inf, 2], [0, 1, 1, 4, 4]])
    out = roi_align(input, rois, 2, 1.0, 0, mode, True)
    assert torch.equal(out[:3], torch.zeros(3, 2, 2, 2))
    assert torch.equal(out[3], torch.ones(2, 2, 2))
    gradient = torch.autograd.grad(out.sum(), input)[0]
    assert gradient.sum().item() == pytest.approx(8.0)


def test_no_region():
    from mmcv.ops import roi_align

    input = torch.ones(1, 2, 6, 6, requires_grad=True)
    out = roi_align(input, torch.zeros(0, 5), 2)
    assert out.shape == (0, 2, 2, 2)
    assert torch.autograd.grad(out.sum(), input)[0].abs().sum() == 0


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_small_chunks_give_the_same(monkeypatch, mode):
    from mmcv.ops import roi_align

    torch.manual_seed(1)
    input = torch.randn(2, 3, 20, 24, requires_grad=True)
    corner = 60 * torch.rand(17, 2)
    rois = torch.cat([torch.randint(2, (17, 1)), corner, corner + 40 * torch.rand(17, 2)], 1)

    def run():
        out = roi_align(input, rois, 3, 0.25, 0, mode, True)
        return out, torch.autograd.grad((out * out.detach().cos()).sum(), input)[0]

    expected = run()
    monkeypatch.setattr(regions, "TAP_BUDGET", 500)
    for got, want in zip(run(), expected, strict=True):
        torch.testing.assert_close(got, want)


def test_bfloat16_features_are_sampled_at_exact_places():

    input = torch.zeros(1, 1, 4, 600, dtype=torch.bfloat16)
    input[..., 513] = 1
    # In bf16 the place 513 would round to 512 or 514.
    rois = torch.tensor([[0, 513.0, 1, 514, 2]])
    output, empty = input.new_zeros(1, 1, 1, 1), input.new_zeros(0)
    portable.roi_align_forward(input, rois, output, empty, empty, 1, 1, 1.0, 1, 1, True)
    assert output.item() == 1.0
