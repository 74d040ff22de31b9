"""Precise RoI pooling (Jiang et al., 2018, https://arxiv.org/abs/1807.11590): the exact mean of the bilinear surface.

The surface is a sum of pixel values times hat functions, ``max(0, 1 - |y - i|) * max(0, 1 - |x - j|)``. So the integral
over a bin is a sum of pixels with the product of two one-dimensional integrals as weights. Those are differentiable in
the edges of the bin, which gives the gradient of the regions.

Shapes: B images, C channels, H x W feature map, R regions, P x Q bins of the output.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from mmcv_overrides.ops.regions import chunks, feature_map, feature_rows
from mmcv_overrides.ops.rows import compute_dtype, dot_rows, gather_rows, scatter_rows


def prroi_pool_forward(
    input: Tensor, rois: Tensor, output: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float
) -> None:
    """Pool every region into P x Q bins.

    Args:
        input: feature map [B, C, H, W]; it is 0 outside.
        rois: [R, 5], (image, x1, y1, x2, y2) in pixels of the image.
        output: [R, C, P, Q], overwritten. A region of no size gets 0.
        pooled_height: P.
        pooled_width: Q.
        spatial_scale: feature map units per pixel.
    """
    size = (pooled_height, pooled_width)
    table = feature_rows(input, compute_dtype(input.dtype))
    for chosen, index, weight, _ in _taps(rois, size, spatial_scale, input.shape, table.dtype):
        output[chosen] = feature_map(gather_rows(table, index, weight), size).to(output.dtype)


def prroi_pool_backward(
    grad_output: Tensor, rois: Tensor, grad_input: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float
) -> None:
    """Add the gradient of the feature map to ``grad_input``; arguments as in `prroi_pool_forward`."""
    batch, _, height, width = grad_input.shape
    dtype = compute_dtype(grad_input.dtype)
    taps = _taps(rois, (pooled_height, pooled_width), spatial_scale, grad_input.shape, dtype)
    for chosen, index, weight, _ in taps:
        grad = scatter_rows(feature_rows(grad_output[chosen], dtype), index, weight, batch * height * width)
        grad_input += feature_map(grad, (height, width)).to(grad_input.dtype)


def prroi_pool_coor_backward(
    output: Tensor,
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    grad_rois: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradient of the corners of the regions to ``grad_rois`` [R, 5]; ``output`` is not needed."""
    table = feature_rows(input, compute_dtype(input.dtype))
    with torch.enable_grad():
        taps = _taps(rois, (pooled_height, pooled_width), spatial_scale, input.shape, table.dtype)
        for chosen, index, weight, leaf in taps:
            grad = feature_rows(grad_output[chosen], table.dtype)
            (grad_chunk,) = torch.autograd.grad(weight, leaf, dot_rows(grad, table, index))
            grad_rois[chosen] += grad_chunk.to(grad_rois.dtype)


def _taps(
    rois: Tensor, size: tuple[int, int], scale: float, shape: torch.Size, dtype: torch.dtype
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield (indices of regions, rows [R*P*Q, pixels], weights, the regions as a leaf that the weights depend on)."""
    height, width = shape[2:]
    grid = torch.stack([_reach(*edges) for edges in _edges(rois.detach().to(dtype), size, scale)], 1)
    for chosen, pixels in chunks(grid, size, 1, taps=1):
        leaf = rois[chosen].detach().to(dtype).requires_grad_(torch.is_grad_enabled())
        (y, y_weight), (x, x_weight) = (
            _axis_taps(*edges, pixels[axis], shape[2 + axis]) for axis, edges in enumerate(_edges(leaf, size, scale))
        )
        row = leaf[:, 0].long()[:, None, None] * height + y
        index = row[:, :, None, :, None] * width + x[:, None, :, None, :]
        weight = y_weight[:, :, None, :, None] * x_weight[:, None, :, None, :]
        taps = pixels[0] * pixels[1]
        yield chosen, index.reshape(-1, taps), weight.reshape(-1, taps), leaf


def _edges(rois: Tensor, size: tuple[int, int], scale: float) -> list[tuple[Tensor, Tensor]]:
    """(first edges, sizes) of the bins along y [R, P] and [R, 1], then along x [R, Q] and [R, 1]."""
    result = []
    for bins, low, high in ((size[0], 2, 4), (size[1], 1, 3)):
        start = rois[:, low, None] * scale
        bin = (rois[:, high, None] * scale - start).clamp(min=0) / bins
        result.append((start + bin * torch.arange(bins, device=rois.device, dtype=rois.dtype), bin))
    return result


def _reach(first: Tensor, bin: Tensor) -> Tensor:
    """Pixels whose hat functions the largest bin of each region meets [R]; none for a region without (finite) size."""
    pixels = ((first + bin).ceil() - first.floor() + 1).amax(1)
    return torch.where(pixels.isfinite() & (bin[:, 0] > 0), pixels, 0)


def _axis_taps(first: Tensor, bin: Tensor, pixels: int, limit: int) -> tuple[Tensor, Tensor]:
    """Pixels along an axis and the mean of their hat functions over each bin, both [R, bins, pixels]."""
    number = first.detach().floor()[..., None] + torch.arange(pixels, device=first.device, dtype=first.dtype)
    inside = (number >= 0) & (number < limit) & (bin > 0)[..., None]
    integral = _hat_integral((first + bin)[..., None] - number) - _hat_integral(first[..., None] - number)
    mean = integral / torch.where(bin > 0, bin, 1)[..., None]
    return torch.where(inside, number, 0).long(), torch.where(inside, mean, 0)


def _hat_integral(t: Tensor) -> Tensor:
    """The integral of ``max(0, 1 - |u|)`` from -1 to ``t``."""
    t = t.clamp(-1, 1)
    return 0.5 + t - t * t.abs() / 2
