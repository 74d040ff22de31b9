"""RoIAlign (He et al., 2017, https://arxiv.org/abs/1703.06870) with `rows`, forward and backward, average and maximum.

Shapes: B images, C channels, H x W feature map, R regions, P x Q bins of the output, G sampling points per bin and
axis (the largest number in the chunk; regions with fewer points have weight 0 on the rest).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mmcv_overrides.ops.rows import compute_dtype, gather_rows, scatter_rows

MAX_POOL = 0
# Bounds on memory: taps (pairs of row and weight) per chunk of regions, and values per chunk in maximum pooling.
TAP_BUDGET = 1 << 21
VALUE_BUDGET = 1 << 24
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
    table = _table(input)
    regions = _regions(rois, size, spatial_scale, sampling_ratio, aligned, table.dtype)
    channels = 1 if pool_mode != MAX_POOL else input.size(1)
    for chosen, points in _chunks(regions.grid, size, channels):
        chunk = regions[chosen]
        ys, xs = _points(chunk, size, points, (input.size(2), input.size(3)))
        if pool_mode == MAX_POOL:
            value, y, x = _maximum(table, chunk, ys, xs, input.shape)
            argmax_y[chosen], argmax_x[chosen] = y.to(argmax_y.dtype), x.to(argmax_x.dtype)
        else:
            index, weight = _average_taps(chunk, ys, xs, input.shape)
            value = gather_rows(table, index, weight).view(len(chosen), *size, -1).permute(0, 3, 1, 2)
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
    batch, channels, height, width = grad_input.shape
    regions = _regions(rois, size, spatial_scale, sampling_ratio, aligned, dtype)
    for chosen, points in _chunks(regions.grid, size, 1):
        chunk = regions[chosen]
        ys, xs = _points(chunk, size, points, (height, width))
        index, weight = _average_taps(chunk, ys, xs, grad_input.shape)
        grad = grad_output[chosen].permute(0, 2, 3, 1).reshape(-1, channels).to(dtype)
        grad = scatter_rows(grad, index, weight, batch * height * width)
        grad_input += grad.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _table(input: Tensor) -> Tensor:
    """The feature map with one row per pixel, [B*H*W, C]; no copy of a channels-last map."""
    return input.permute(0, 2, 3, 1).reshape(-1, input.size(1)).to(compute_dtype(input.dtype))


def _regions(
    rois: Tensor, size: tuple[int, int], scale: float, ratio: int, aligned: bool, dtype: torch.dtype
) -> _Regions:
    corners = rois[:, 1:].to(dtype) * scale - (0.5 if aligned else 0.0)
    start, end = corners[:, [1, 0]], corners[:, [3, 2]]
    extent = end - start
    if not aligned:
        extent = extent.clamp(min=1)
    bin = extent / extent.new_tensor(size)
    grid = bin.new_full(bin.shape, ratio) if ratio > 0 else bin.ceil().clamp(min=0)
    grid = torch.where(bin.isfinite(), grid, 0)  # no sampling points for a region that is not finite
    return _Regions(rois[:, 0].long(), start, bin, grid)


def _chunks(grid: Tensor, size: tuple[int, int], channels: int) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """Yield (indices of regions, largest grid among them), regions of similar grids together, within the memory bounds.

    The grids are copied to the host once: one read-back for all chunks.
    """
    on_host = grid.long().cpu()
    order = on_host.amax(1).argsort(stable=True)
    grids = on_host[order].tolist()
    first = 0
    while first < len(grids):
        last, points = first, (1, 1)
        while last < len(grids):
            grown = (max(points[0], grids[last][0]), max(points[1], grids[last][1]))
            samples = (last - first + 1) * size[0] * size[1] * grown[0] * grown[1]
            if last > first and (4 * samples > TAP_BUDGET or samples * channels > VALUE_BUDGET):
                break
            last, points = last + 1, grown
        yield order[first:last].to(grid.device), points
        first = last


def _points(regions: _Regions, size: tuple[int, int], points: tuple[int, int], limits: tuple[int, int]) -> list[_Axis]:
    """Sampling points of a chunk along y and along x."""
    return [_axis(regions, axis, size[axis], points[axis], limits[axis]) for axis in (0, 1)]


def _axis(regions: _Regions, axis: int, bins: int, points: int, limit: int) -> _Axis:
    start, bin, grid = (t[:, axis, None, None] for t in (regions.start, regions.bin, regions.grid))
    cell = torch.arange(points, device=grid.device, dtype=start.dtype)
    number = torch.arange(bins, device=grid.device, dtype=start.dtype)[:, None]
    point = start + number * bin + (cell + 0.5) * bin / grid.clamp(min=1)
    # A sample up to one unit outside the map has the value of the border, beyond that 0.
    inside = (cell < grid) & (point >= -1) & (point <= limit)
    clamped = torch.where(inside, point, 0).clamp(0, limit - 1)
    low = clamped.floor()
    high_weight = torch.where(inside, clamped - low, 0)
    low_weight = inside.to(point.dtype) - high_weight
    low = low.long()
    point = torch.where(cell < grid, point, OUTSIDE)
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
    batch, channels, height, width = shape
    plane = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    y, x = argmax_y.to(grad.dtype), argmax_x.to(grad.dtype)
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    y_low, x_low = y.floor(), x.floor()
    out = grad.new_zeros(batch * channels * height * width)
    for row, y_weight in ((y_low, 1 - (y - y_low)), (y_low + 1, y - y_low)):
        for column, x_weight in ((x_low, 1 - (x - x_low)), (x_low + 1, x - x_low)):
            place = row.clamp(max=height - 1).long() * width + column.clamp(max=width - 1).long()
            place = place + plane[:, :, None, None] * (height * width)
            out.index_add_(0, place.flatten(), (grad * y_weight * x_weight * inside).flatten())
    return out.view(shape)
