"""BorderAlign (Qiu et al., 2020, https://arxiv.org/abs/2007.11056): the maximum along each of the four sides of a box.

Shapes: B images, 4 C channels (C for each of top, left, bottom, right), H x W feature map, N boxes per image.
"""

import torch
from torch import Tensor

from mmcv_overrides.ops.bilinear import clamped_corners, scatter_to_planes
from mmcv_overrides.ops.rows import compute_dtype, gather_rows


def border_align_forward(input: Tensor, boxes: Tensor, output: Tensor, argmax_idx: Tensor, pool_size: int) -> None:
    """Sample ``pool_size + 1`` points on each side, corners included, and keep the largest value.

    Args:
        input: feature map [B, 4 * C, H, W].
        boxes: [B, N, 4], x1 y1 x2 y2 in feature map units.
        output: [B, C, N, 4], overwritten; sides in the order top, left, bottom, right.
        argmax_idx: [B, C, N, 4], int32, overwritten with the number of the point that has the largest value, the first
            one of equal ones. Points are counted from (x1, y1) on the top and the left, from (x2, y2) on the others.
        pool_size: number of intervals on a side.
    """
    batch, channels, height, width = input.shape
    dtype = compute_dtype(input.dtype)
    by_side = input.view(batch, 4, channels // 4, height * width)
    table = by_side.transpose(2, 3).reshape(-1, channels // 4).to(dtype)
    base = torch.arange(4 * batch, device=input.device).view(batch, 4, 1, 1) * (height * width)
    best, place = None, torch.zeros(0)
    for number in range(pool_size + 1):
        y, x = _points(boxes.to(dtype), number, pool_size)  # [B, 4, N]
        index, weight = clamped_corners(y, x, height, width)
        value = gather_rows(table, (index + base).view(-1, 4), weight.view(-1, 4))
        if best is None:
            best, place = value, torch.zeros_like(value, dtype=argmax_idx.dtype)
            continue
        better = value > best
        best, place = torch.where(better, value, best), place.masked_fill(better, number)
    assert best is not None
    for target, values in ((output, best), (argmax_idx, place)):
        target.copy_(values.view(batch, 4, -1, channels // 4).permute(0, 3, 2, 1))


def border_align_backward(
    grad_output: Tensor, boxes: Tensor, argmax_idx: Tensor, grad_input: Tensor, pool_size: int
) -> None:
    """Add the gradient of every side to the pixels around its maximum in ``grad_input`` [B, 4 * C, H, W]."""
    batch, channels = grad_input.shape[:2]
    dtype = compute_dtype(grad_input.dtype)
    grad, number = (t.permute(0, 3, 1, 2) for t in (grad_output.to(dtype), argmax_idx))  # [B, 4, C, N]
    y, x = _points(boxes.to(dtype), number, pool_size)
    plane = torch.arange(batch * channels, device=boxes.device).view(batch, 4, channels // 4, 1)
    grad_input += scatter_to_planes(grad, y, x, plane, grad_input.shape).to(grad_input.dtype)


def _points(boxes: Tensor, number: int | Tensor, pool_size: int) -> tuple[Tensor, Tensor]:
    """(y, x) of points on the four sides of boxes [B, N, 4]: [B, 4, N] of one number, [B, 4, C, N] of such numbers."""
    step = (boxes[..., 2:] - boxes[..., :2]) / pool_size  # [B, N, 2]
    zero = torch.zeros_like(step[..., 0])
    x_step = torch.stack([step[..., 0], zero, -step[..., 0], zero], 1)  # [B, 4, N]
    y_step = torch.stack([zero, step[..., 1], zero, -step[..., 1]], 1)
    x, y = (torch.stack([boxes[..., a], boxes[..., a], boxes[..., a + 2], boxes[..., a + 2]], 1) for a in (0, 1))
    if isinstance(number, Tensor):
        x, y, x_step, y_step = (t[:, :, None] for t in (x, y, x_step, y_step))
    return y + number * y_step, x + number * x_step
