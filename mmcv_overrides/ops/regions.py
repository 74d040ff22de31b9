"""What the region operators share: regions in chunks of bounded memory, and the sampling grid within their bins.

Shapes: R regions, P bins along an axis, G sampling points per bin and axis (the largest number in the chunk; regions
with fewer points do not use the rest).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from mmcv_overrides.ops.bilinear import clamped_corners

# Bounds on memory: taps (pairs of row and weight) per chunk of regions, and values per chunk in maximum pooling.
TAP_BUDGET = 1 << 21
VALUE_BUDGET = 1 << 24


def feature_rows(input: Tensor, dtype: torch.dtype) -> Tensor:
    """The feature map [B, C, H, W] with one row per pixel, [B*H*W, C]; no copy of a channels-last map of ``dtype``."""
    return input.permute(0, 2, 3, 1).reshape(-1, input.size(1)).to(dtype)


def feature_map(rows: Tensor, size: tuple[int, int]) -> Tensor:
    """The reverse of `feature_rows`: rows [N*P*Q, C] as a map [N, C, P, Q], for ``size`` (P, Q)."""
    return rows.view(-1, *size, rows.size(-1)).permute(0, 3, 1, 2)


def sampling_grid(bin: Tensor, ratio: int) -> Tensor:
    """Sampling points per bin and axis [R, 2], from bin sizes [R, 2] in feature map units.

    ``ratio`` 0 takes one point per unit, rounded up. A region that is not finite has no points.
    """
    grid = bin.new_full(bin.shape, ratio) if ratio > 0 else bin.ceil().clamp(min=0)
    return torch.where(bin.isfinite(), grid, 0)


def chunks(
    grid: Tensor, size: tuple[int, int], channels: int, taps: int = 4
) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """Yield (indices of regions, largest grid among them), regions of similar grids together, within the memory bounds.

    The grids are copied to the host once: one read-back for all chunks.

    Args:
        grid: points per bin and axis [R, 2].
        size: bins (P, Q).
        channels: values kept for each point; 1 if only sums are.
        taps: pairs of row and weight for each point.
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
            if last > first and (taps * samples > TAP_BUDGET or samples * channels > VALUE_BUDGET):
                break
            last, points = last + 1, grown
        yield order[first:last].to(grid.device), points
        first = last


def sampling_points(bin: Tensor, grid: Tensor, bins: int, points: int) -> tuple[Tensor, Tensor]:
    """Distances of the sampling points from the start of their region, along one axis.

    Args:
        bin: size of a bin [R].
        grid: points per bin [R].
        bins: P.
        points: G.

    Returns:
        (distances [R, P, G], whether the point is in use [R, 1, G]).
    """
    cell = torch.arange(points, device=bin.device, dtype=bin.dtype)
    number = torch.arange(bins, device=bin.device, dtype=bin.dtype)[:, None]
    bin, grid = bin[:, None, None], grid[:, None, None]
    return number * bin + (cell + 0.5) * bin / grid.clamp(min=1), cell < grid


def mean_taps(
    y: Tensor, x: Tensor, used: Tensor, grid: Tensor, image: Tensor, shape: torch.Size
) -> tuple[Tensor, Tensor]:
    """Rows and weights of the mean of bilinear samples in every bin.

    Args:
        y: sampling points in feature map units, broadcast with ``x`` to [R, P, Q, G, G].
        x: as ``y``.
        used: whether each point counts, broadcast to the same shape.
        grid: points per bin and axis [R, 2].
        image: image of each region [R].
        shape: of the feature map, [B, C, H, W].

    Returns:
        (rows of `feature_rows`, weights), both [R * P * Q, G * G * 4]. Weights are differentiable in y and x.
    """
    height, width = shape[2:]
    y, x = torch.broadcast_tensors(y, x)
    index, weight = clamped_corners(y, x, height, width)
    count = grid.prod(1).clamp(min=1)[:, None, None, None, None]
    weight = weight * (used / count)[..., None]
    index = index + (image * (height * width))[:, None, None, None, None, None]
    taps = 4 * y.size(3) * y.size(4)
    return index.reshape(-1, taps), weight.reshape(-1, taps)
