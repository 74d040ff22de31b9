"""RoIPool (Girshick, 2015, https://arxiv.org/abs/1504.08083): the maximum of every bin of whole pixels.

Shapes: B images, C channels, H x W feature map, R regions, P x Q bins of the output.
"""

import torch
from torch import Tensor

from mmcv_overrides.ops.regions import chunks, feature_rows
from mmcv_overrides.ops.rows import compute_dtype

NOTHING = -1


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Pool every region into P x Q bins.

    Args:
        input: feature map [B, C, H, W].
        rois: [R, 5], (image, x1, y1, x2, y2) in pixels of the image, both corners included.
        output: [R, C, P, Q], overwritten. A bin without pixels (outside the map, or of a region of no size) gets 0.
        argmax: [R, C, P, Q], int32, overwritten with ``y * W + x`` of the maximum, the first one in this order; -1 for
            a bin without pixels.
        pooled_height: P.
        pooled_width: Q.
        spatial_scale: feature map units per pixel.
    """
    height, width = input.shape[2:]
    table = feature_rows(input, input.dtype)
    image, corners = rois[:, 0].long(), rois[:, 1:].to(compute_dtype(input.dtype))
    start, end = corners[:, [1, 0]] * spatial_scale, (corners[:, [3, 2]] + 1) * spatial_scale
    malformed = ~(end > start).all(1)  # also regions that are not a number
    edges = []
    for axis, (bins, limit) in enumerate(((pooled_height, height), (pooled_width, width))):
        first = start[:, axis, None]
        size = (end[:, axis, None] - first) / bins
        number = torch.arange(bins, device=rois.device, dtype=first.dtype)
        low = (number * size + first).floor().nan_to_num().clamp(0, limit).long()
        high = ((number + 1) * size + first).ceil().nan_to_num().clamp(0, limit).long()
        edges.append((low, torch.where(malformed[:, None], low, high)))
    (top, bottom), (left, right) = edges  # [R, P] and [R, Q]
    grid = torch.stack([(bottom - top).amax(1), (right - left).amax(1)], 1)
    for chosen, _ in chunks(grid, (pooled_height, pooled_width), input.size(1)):
        rectangles = tuple(edge[chosen] for edge in (top, bottom, left, right))
        value, place = _maximum(table, image[chosen] * (height * width), rectangles, width)
        output[chosen] = value.permute(0, 3, 1, 2)
        argmax[chosen] = place.permute(0, 3, 1, 2).to(argmax.dtype)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradient of every bin to the pixel of its maximum in ``grad_input`` [B, C, H, W]."""
    channels, height, width = grad_input.shape[1:]
    plane = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    place = plane[:, :, None, None] * (height * width) + argmax.clamp(min=0)
    grad = grad_output.masked_fill(argmax == NOTHING, 0)
    total = torch.zeros(grad_input.numel(), dtype=compute_dtype(grad.dtype), device=grad.device)
    total.index_add_(0, place.flatten(), grad.flatten().to(total.dtype))
    grad_input += total.view(grad_input.shape).to(grad_input.dtype)


def _maximum(table: Tensor, base: Tensor, rectangles: tuple[Tensor, ...], width: int) -> tuple[Tensor, Tensor]:
    """Largest value of each bin and its place, both [R, P, Q, C]; one gather per pixel of the largest bin.

    Args:
        table: feature map, one row per pixel.
        base: row of the first pixel of each region's image [R].
        rectangles: top and bottom [R, P], left and right [R, Q] of the bins, the latter of each excluded.
        width: W.
    """
    top, bottom, left, right = rectangles
    rows, columns = int((bottom - top).amax()), int((right - left).amax())
    shape = (*top.shape, left.size(1), table.size(1))
    value = table.new_full(shape, -torch.inf)
    place = torch.full(shape, NOTHING, dtype=torch.int64, device=table.device)
    for row in range(rows):
        y = (top + row)[:, :, None]
        for column in range(columns):
            x = (left + column)[:, None, :]
            inside = (y < bottom[:, :, None]) & (x < right[:, None, :])
            here = torch.where(inside, y * width + x, 0)
            candidate = table[base[:, None, None] + here]
            better = inside[..., None] & (candidate > value)
            value = torch.where(better, candidate, value)
            place = torch.where(better, here[..., None], place)
    return value.masked_fill(place == NOTHING, 0), place
