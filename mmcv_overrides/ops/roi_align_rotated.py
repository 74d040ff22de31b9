"""RoIAlign of rotated regions: the sampling grid of the region is turned about its center.

Shapes: B images, C channels, H x W feature map, R regions, P x Q bins of the output, G sampling points per bin and axis
(the largest number in the chunk).
"""

from collections.abc import Iterator

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
from mmcv_overrides.ops.rows import compute_dtype, gather_rows, scatter_rows


def roi_align_rotated_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """Pool every region into P x Q bins, each the mean of bilinear samples.

    Args:
        input: feature map [B, C, H, W].
        rois: [R, 6], (image, x, y, w, h, angle): center and size in pixels of the image, angle in radians.
        output: [R, C, P, Q], overwritten. A bin without sampling points (a region of size 0) gets 0.
        pooled_height: P, along h.
        pooled_width: Q, along w.
        spatial_scale: feature map units per pixel.
        sampling_ratio: points per bin and axis; 0 takes one per feature map unit, rounded up.
        aligned: shift regions by half a unit, to the pixel centers; otherwise regions are at least one unit wide.
        clockwise: whether a positive angle turns the x axis towards the y axis.
    """
    size = (pooled_height, pooled_width)
    table = feature_rows(input, compute_dtype(input.dtype))
    regions = _centered(rois, table.dtype, spatial_scale, aligned, clockwise)
    for chosen, index, weight in _taps(rois, regions, size, sampling_ratio, input.shape):
        output[chosen] = feature_map(gather_rows(table, index, weight), size).to(output.dtype)


def roi_align_rotated_backward(
    grad_output: Tensor,
    rois: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
    clockwise: bool,
) -> None:
    """Add the gradient of the feature map to ``grad_input``; arguments as in `roi_align_rotated_forward`."""
    size = (pooled_height, pooled_width)
    batch, _, height, width = grad_input.shape
    dtype = compute_dtype(grad_input.dtype)
    regions = _centered(rois, dtype, spatial_scale, aligned, clockwise)
    for chosen, index, weight in _taps(rois, regions, size, sampling_ratio, grad_input.shape):
        grad = scatter_rows(feature_rows(grad_output[chosen], dtype), index, weight, batch * height * width)
        grad_input += feature_map(grad, (height, width)).to(grad_input.dtype)


def _centered(rois: Tensor, dtype: torch.dtype, scale: float, aligned: bool, clockwise: bool) -> Tensor:
    """Regions [R, 5] in feature map units: (y, x) of the center, (height, width), angle from the x to the y axis."""
    x, y, width, height, angle = rois[:, 1:].to(dtype).unbind(1)
    center = torch.stack([y, x], 1) * scale - (0.5 if aligned else 0.0)
    extent = torch.stack([height, width], 1) * scale
    if not aligned:
        extent = extent.clamp(min=1)
    return torch.cat([center, extent, (angle if clockwise else -angle)[:, None]], 1)


def _taps(
    rois: Tensor, regions: Tensor, size: tuple[int, int], ratio: int, shape: torch.Size
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield (indices of regions, rows [R*P*Q, G*G*4], weights) of every bin's mean, in chunks."""
    bin = regions[:, 2:4] / regions.new_tensor(size)
    grid = sampling_grid(bin, ratio)
    for chosen, points in chunks(grid, size, 1):
        (y, y_used), (x, x_used) = (
            sampling_points(bin[chosen, a], grid[chosen, a], size[a], points[a]) for a in (0, 1)
        )
        center_y, center_x, height, width, angle = (t[:, None, None, None, None] for t in regions[chosen].unbind(1))
        y = y[:, :, None, :, None] - height / 2
        x = x[:, None, :, None, :] - width / 2
        cos, sin = angle.cos(), angle.sin()
        used = y_used[:, :, None, :, None] & x_used[:, None, :, None, :]
        turned = (center_y + y * cos + x * sin, center_x - y * sin + x * cos)
        yield chosen, *mean_taps(*turned, used, grid[chosen], rois[chosen, 0].long(), shape)
