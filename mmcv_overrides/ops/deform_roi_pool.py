"""Deformable RoI pooling (Dai et al., 2017, https://arxiv.org/abs/1703.06211): RoIAlign whose bins are shifted.

Shapes: B images, C channels, H x W feature map, R regions, P x Q bins of the output, G sampling points per bin and axis
(the largest number in the chunk).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmcv_overrides.ops.regions import (
    chunks,
    feature_map,
    feature_rows,
    mean_taps,
    sampling_grid,
    sampling_points,
)
from mmcv_overrides.ops.rows import compute_dtype, dot_rows, gather_rows, scatter_rows


@dataclass(frozen=True)
class _Regions:
    """Regions in feature map units: image [R]; start, extent, bin size and grid as [R, 2], each as (y, x)."""

    image: Tensor
    start: Tensor
    extent: Tensor
    bin: Tensor
    grid: Tensor


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Average bilinear samples in every shifted bin.

    Args:
        input: feature map [B, C, H, W].
        rois: [R, 5], (image, x1, y1, x2, y2) in pixels of the image.
        offset: [R, 2, P, Q], (x, y) shift of each bin, in units of ``gamma`` times the size of its region; or empty.
        output: [R, C, P, Q], overwritten. A bin without sampling points (a region of size 0) gets 0.
        pooled_height: P.
        pooled_width: Q.
        spatial_scale: feature map units per pixel.
        sampling_ratio: points per bin and axis; 0 takes one per feature map unit, rounded up.
        gamma: scale of the offsets.
    """
    size = (pooled_height, pooled_width)
    table = feature_rows(input, compute_dtype(input.dtype))
    regions = _regions(rois, size, spatial_scale, sampling_ratio, table.dtype)
    for chosen, points in chunks(regions.grid, size, 1):
        index, weight = _taps(regions, chosen, _shift(offset, chosen, gamma), size, points, input.shape)
        output[chosen] = feature_map(gather_rows(table, index, weight), size).to(output.dtype)


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Add the gradients to ``grad_input`` and, unless it is empty, to ``grad_offset``."""
    size = (pooled_height, pooled_width)
    table = feature_rows(input, compute_dtype(input.dtype))
    regions = _regions(rois, size, spatial_scale, sampling_ratio, table.dtype)
    total = torch.zeros_like(table)
    for chosen, points in chunks(regions.grid, size, 1):
        shift = _shift(offset, chosen, gamma)
        with torch.enable_grad():
            shift = None if shift is None else shift.detach().to(table.dtype).requires_grad_()
            index, weight = _taps(regions, chosen, shift, size, points, input.shape)
        grad = feature_rows(grad_output[chosen], table.dtype)
        total += scatter_rows(grad, index, weight.detach(), len(table))
        if shift is not None:
            (grad_shift,) = torch.autograd.grad(weight, shift, dot_rows(grad, table, index))
            grad_offset[chosen] += (grad_shift * gamma).to(grad_offset.dtype)
    grad_input += feature_map(total, (input.size(2), input.size(3))).to(grad_input.dtype)


def _regions(rois: Tensor, size: tuple[int, int], scale: float, ratio: int, dtype: torch.dtype) -> _Regions:
    corners = rois[:, 1:].to(dtype) * scale - 0.5
    start, extent = corners[:, [1, 0]], corners[:, [3, 2]] - corners[:, [1, 0]]
    bin = extent / extent.new_tensor(size)
    return _Regions(rois[:, 0].long(), start, extent, bin, sampling_grid(bin, ratio))


def _shift(offset: Tensor, chosen: Tensor, gamma: float) -> Tensor | None:
    """Shift of the bins of a chunk in sizes of their region [R, 2, P, Q], (x, y); None without offsets."""
    return offset[chosen] * gamma if offset.numel() else None


def _taps(
    regions: _Regions,
    chosen: Tensor,
    shift: Tensor | None,
    size: tuple[int, int],
    points: tuple[int, int],
    shape: torch.Size,
) -> tuple[Tensor, Tensor]:
    """Rows and weights of every bin's mean, [R*P*Q, G*G*4]."""
    bin, grid, extent, start = (t[chosen] for t in (regions.bin, regions.grid, regions.extent, regions.start))
    (y, y_used), (x, x_used) = (sampling_points(bin[:, a], grid[:, a], size[a], points[a]) for a in (0, 1))
    y, x = y + start[:, 0, None, None], x + start[:, 1, None, None]
    y, x = y[:, :, None, :, None], x[:, None, :, None, :]  # [R, P, 1, G, 1] and [R, 1, Q, 1, G]
    if shift is not None:
        pixels = shift.to(y.dtype) * extent.flip(1)[:, :, None, None]  # (x, y)
        y, x = y + pixels[:, 1, ..., None, None], x + pixels[:, 0, ..., None, None]
    used = y_used[:, :, None, :, None] & x_used[:, None, :, None, :]
    return mean_taps(y, x, used, grid, regions.image[chosen], shape)
