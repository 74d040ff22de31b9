"""RoIAlign (He et al., 2017, https://arxiv.org/abs/1703.06870) with `rows`, forward and backward, average and maximum.

Shapes: B images, C channels, H x W feature map, R regions, P x Q bins of the output, G sampling points per bin and
axis (the largest number in the chunk; regions with fewer points have weight 0 on the rest).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mmcv_overrides.ops.bilinear import scatter_to_planes
from mmcv_overrides.ops.regions import chunks, feature_map, feature_rows, sampling_grid, sampling_points
from mmcv_overrides.ops.rows import compute_dtype, gather_rows, scatter_rows

MAX_POOL = 0
OUTSIDE = -2.0


@dataclass(frozen=True)
class _Axis:
    """Sampling points of a chunk of regions along one axis; tensors [R, P, G]."""

    point: Tensor
    low: Tensor
    high: Tensor
    low_weight: Tensor
    high_weight: Tensor


@dataclass(frozen=True)
class _Regions:
    """Regions in feature map units: image [R], start, bin size and grid as [R, 2], each as (y, x)."""

    image: Tensor
    start: Tensor
    bin: Tensor
    grid: Tensor

    def __getitem__(self, chosen: Tensor) -> "_Regions":
        return _Regions(self.image[chosen], self.start[chosen], self.bin[chosen], self.grid[chosen])


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Pool every region into P x Q bins of bilinear samples.

    Args:
        input: feature map [B, C, H, W].
        rois: [R, 5], (image, x1, y1, x2, y2) in pixels of the image.
        output: [R, C, P, Q], overwritten. A bin without sampling points (a region of size 0) gets 0.
        argmax_y: [R, C, P, Q], overwritten with the position of the maximum, in feature map units; empty for average.
        argmax_x: see ``argmax_y``.
        aligned_height: P.
        aligned_width: Q.
        spatial_scale: feature map units per pixel.
        sampling_ratio: points per bin and axis; 0 takes one per feature map unit, rounded up.
        pool_mode: 0 maximum, 1 average.
        aligned: shift regions by half a unit, to the pixel centers; otherwise regions are at least one unit wide.
    """
    size = (aligned_height, aligned_width)
    table = feature_rows(input, compute_dtype(input.dtype))
    regions = _regions(rois, size, spatial_scale, sampling_ratio, aligned, table.dtype)
    channels = 1 if pool_mode != MAX_POOL else input.size(1)
    for chosen, points in chunks(regions.grid, size, channels):
        chunk = regions[chosen]
        ys, xs = _points(chunk, size, points, (input.size(2), input.size(3)))
        if pool_mode == MAX_POOL:
            value, y, x = _maximum(table, chunk, ys, xs, input.shape)
            argmax_y[chosen], argmax_x[chosen] = y.to(argmax_y.dtype), x.to(argmax_x.dtype)
        else:
            index, weight = _average_taps(chunk, ys, xs, input.shape)
            value = feature_map(gather_rows(table, index, weight), size)
        output[chosen] = value.to(output.dtype)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add the gradient of the feature map to ``grad_input`` [B, C, H, W]; arguments as in `roi_align_forward`."""
    size = (aligned_height, aligned_width)
    dtype = compute_dtype(grad_input.dtype)
    if pool_mode == MAX_POOL:
        grad_input += _maximum_gradient(grad_output.to(dtype), rois, argmax_y, argmax_x, grad_input.shape)
        return
    batch, _, height, width = grad_input.shape
    regions = _regions(rois, size, spatial_scale, sampling_ratio, aligned, dtype)
    for chosen, points in chunks(regions.grid, size, 1):
        chunk = regions[chosen]
        ys, xs = _points(chunk, size, points, (height, width))
        index, weight = _average_taps(chunk, ys, xs, grad_input.shape)
        grad = scatter_rows(feature_rows(grad_output[chosen], dtype), index, weight, batch * height * width)
        grad_input += feature_map(grad, (height, width))


def _regions(
    rois: Tensor, size: tuple[int, int], scale: float, ratio: int, aligned: bool, dtype: torch.dtype
) -> _Regions:
    corners = rois[:, 1:].to(dtype) * scale - (0.5 if aligned else 0.0)
    start, end = corners[:, [1, 0]], corners[:, [3, 2]]
    extent = end - start
    if not aligned:
        extent = extent.clamp(min=1)
    bin = extent / extent.new_tensor(size)
    return _Regions(rois[:, 0].long(), start, bin, sampling_grid(bin, ratio))


def _points(regions: _Regions, size: tuple[int, int], points: tuple[int, int], limits: tuple[int, int]) -> list[_Axis]:
    """Sampling points of a chunk along y and along x."""
    return [_axis(regions, axis, size[axis], points[axis], limits[axis]) for axis in (0, 1)]


def _axis(regions: _Regions, axis: int, bins: int, points: int, limit: int) -> _Axis:
    distance, used = sampling_points(regions.bin[:, axis], regions.grid[:, axis], bins, points)
    point = regions.start[:, axis, None, None] + distance
    # A sample up to one unit outside the map has the value of the border, beyond that 0.
    inside = used & (point >= -1) & (point <= limit)
    clamped = torch.where(inside, point, 0).clamp(0, limit - 1)
    low = clamped.floor()
    high_weight = torch.where(inside, clamped - low, 0)
    low_weight = inside.to(point.dtype) - high_weight
    low = low.long()
    point = torch.where(used, point, OUTSIDE)
    return _Axis(point, low, (low + 1).clamp(max=limit - 1), low_weight, high_weight)


def _average_taps(regions: _Regions, ys: _Axis, xs: _Axis, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Rows and weights of every bin's mean, [R*P*Q, 4*G*G]: the product of the taps along y and along x."""
    height, width = shape[2:]
    y, y_weight = torch.cat([ys.low, ys.high], 2), torch.cat([ys.low_weight, ys.high_weight], 2)
    x, x_weight = torch.cat([xs.low, xs.high], 2), torch.cat([xs.low_weight, xs.high_weight], 2)
    y = (y + regions.image[:, None, None] * height) * width
    y_weight = y_weight / regions.grid.prod(1).clamp(min=1)[:, None, None]
    index = y[:, :, None, :, None] + x[:, None, :, None, :]
    weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
    taps = y.size(2) * x.size(2)
    return index.reshape(-1, taps), weight.reshape(-1, taps)


def _maximum(
    table: Tensor, regions: _Regions, ys: _Axis, xs: _Axis, shape: torch.Size
) -> tuple[Tensor, Tensor, Tensor]:
    """Largest sample of every bin and channel and its position (y, x); each [R, C, P, Q]."""
    height, width = shape[2:]
    y, x = torch.stack([ys.low, ys.high], 3), torch.stack([xs.low, xs.high], 3)
    y_weight = torch.stack([ys.low_weight, ys.high_weight], 3)
    x_weight = torch.stack([xs.low_weight, xs.high_weight], 3)
    y = (y + regions.image[:, None, None, None] * height) * width
    # [R, P, G, 2] and [R, Q, G, 2] -> [R, P, Q, Gy, Gx, 2, 2]
    index = y[:, :, None, :, None, :, None] + x[:, None, :, None, :, None, :]
    weight = y_weight[:, :, None, :, None, :, None] * x_weight[:, None, :, None, :, None, :]
    count, bins, points = index.size(0), index.shape[1:3], index.shape[3:5]
    value = gather_rows(table, index.reshape(-1, 4), weight.reshape(-1, 4))
    value = value.view(count, *bins, points.numel(), shape[1])
    used = (ys.point != OUTSIDE)[:, :, None, :, None] & (xs.point != OUTSIDE)[:, None, :, None, :]
    value = value.masked_fill(~used.reshape(count, *bins, -1, 1), -torch.inf)
    value, best = value.max(3)
    empty = value.isneginf()
    row = best.div(points[1], rounding_mode="floor")
    y = torch.gather(ys.point[:, :, None].expand(-1, -1, bins[1], -1), 3, row)
    x = torch.gather(xs.point[:, None].expand(-1, bins[0], -1, -1), 3, best - row * points[1])
    value, y, x = value.masked_fill(empty, 0), y.masked_fill(empty, OUTSIDE), x.masked_fill(empty, OUTSIDE)
    return value.permute(0, 3, 1, 2), y.permute(0, 3, 1, 2), x.permute(0, 3, 1, 2)


def _maximum_gradient(grad: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, shape: torch.Size) -> Tensor:
    """The gradient of every bin and channel goes to the four pixels around its maximum; [B, C, H, W]."""
    plane = rois[:, 0].long()[:, None] * shape[1] + torch.arange(shape[1], device=rois.device)
    return scatter_to_planes(grad, argmax_y.to(grad.dtype), argmax_x.to(grad.dtype), plane[:, :, None, None], shape)
