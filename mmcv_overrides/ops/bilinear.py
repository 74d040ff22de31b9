"""The four pixels around a point, with their bilinear weights, by the two rules for points outside the image.

Rows are ``y * W + x``. Weights are differentiable in y and x; rows are constants.
"""

import torch
from torch import Tensor


def fading_corners(y: Tensor, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Rows and weights of an image that is 0 outside: values fade to 0 within one pixel of the border.

    A corner outside the image has weight 0; so have all corners of a point outside the open rectangle (-1, H) x (-1,
    W), and of a point that is not finite.

    Args:
        y: positions in pixels, any shape.
        x: as ``y``.
        height: H.
        width: W.

    Returns:
        (rows, int64 in [0, H * W); weights), both of the shape of ``y`` with a last dimension of 4.
    """
    inside = (y > -1) & (y < height) & (x > -1) & (x < width)
    y, x = torch.where(inside, y, 0), torch.where(inside, x, 0)
    y_low, x_low = y.detach().floor(), x.detach().floor()
    index, weight = [], []
    for row, y_weight in ((y_low, 1 - (y - y_low)), (y_low + 1, y - y_low)):
        for column, x_weight in ((x_low, 1 - (x - x_low)), (x_low + 1, x - x_low)):
            real = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            index.append(row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long())
            weight.append(y_weight * x_weight * real)
    return torch.stack(index, -1), torch.stack(weight, -1)


def clamped_corners(y: Tensor, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """As `fading_corners`, for an image whose border value reaches one pixel further and is 0 beyond.

    The region operators sample in this way: the closed rectangle [-1, H] x [-1, W] has values.
    """
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = torch.where(inside, y, 0).clamp(0, height - 1), torch.where(inside, x, 0).clamp(0, width - 1)
    y_low, x_low = y.detach().floor(), x.detach().floor()
    index, weight = [], []
    for row, y_weight in ((y_low, 1 - (y - y_low)), (y_low + 1, y - y_low)):
        for column, x_weight in ((x_low, 1 - (x - x_low)), (x_low + 1, x - x_low)):
            index.append(row.clamp(max=height - 1).long() * width + column.clamp(max=width - 1).long())
            weight.append(y_weight * x_weight * inside)
    return torch.stack(index, -1), torch.stack(weight, -1)


def scatter_to_planes(grad: Tensor, y: Tensor, x: Tensor, plane: Tensor, shape: torch.Size) -> Tensor:
    """Gradient of a map [..., H, W] of which one point per element was sampled with `clamped_corners`.

    Args:
        grad: gradient of the samples, any shape.
        y: positions, same shape as ``grad``; see `clamped_corners`.
        x: as ``y``.
        plane: number of the H x W plane that each element was sampled from, int64, broadcast to ``grad``.
        shape: shape of the map.

    Returns:
        The gradient, of ``shape``.
    """
    height, width = shape[-2:]
    index, weight = clamped_corners(y, x, height, width)
    out = grad.new_zeros(shape.numel())
    for corner in range(4):
        place = index[..., corner] + plane * (height * width)
        out.index_add_(0, place.flatten(), (grad * weight[..., corner]).flatten())
    return out.view(shape)
