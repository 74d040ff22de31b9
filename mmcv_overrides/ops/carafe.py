"""CARAFE upsampling (Wang et al., 2019, https://arxiv.org/abs/1905.02188): each output pixel is a weighted sum of the
k x k input pixels around its source.

Shapes: B images, C channels in G groups that share weights, H x W input, k x k kernel, s the scale factor, L = H * W.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcv_overrides.ops.rows import own_dtype

# Bound on memory: values of the k x k neighbourhoods of one chunk of channels.
NEIGHBOUR_BUDGET = 1 << 24


def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """Write the upsampled map into ``output``.

    Args:
        features: [B, C, H, W].
        masks: [B, G * k * k, H * s, W * s], the weights of the neighbours of every output pixel.
        output: [B, C, H * s, W * s], overwritten.
        kernel_size: k, odd. Neighbours outside the map count as 0.
        group_size: G.
        scale_factor: s.
    """
    with own_dtype(features):
        for image, map in enumerate(features):
            weights = _by_source(masks[image].to(map.dtype), group_size, scale_factor)  # [G, k * k, L, s * s]
            target = output[image].view(group_size, -1, *output.shape[2:])
            for chosen, neighbours in _neighbours(map, kernel_size, group_size):
                values = torch.einsum("gckl,gkls->gcls", neighbours, weights)
                target[:, chosen] = _to_places(values, map.shape[1:], scale_factor)


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write the gradients of features and masks into ``bottom_grad`` and ``mask_grad``, from that of the output."""
    with own_dtype(features):
        for image, map in enumerate(features):
            weights = _by_source(masks[image].to(map.dtype), group_size, scale_factor)
            grads = _by_source(top_grad[image].to(map.dtype), group_size, scale_factor)  # [G, C / G, L, s * s]
            target = bottom_grad[image].view(group_size, -1, *map.shape[1:])
            total = torch.zeros_like(weights)
            for chosen, neighbours in _neighbours(map, kernel_size, group_size):
                grad = grads[:, chosen]
                total += torch.einsum("gckl,gcls->gkls", neighbours, grad)
                spread = torch.einsum("gkls,gcls->gckl", weights, grad)
                target[:, chosen] = _sum_neighbours(spread, map.shape[1:], kernel_size)
            mask_grad[image] = _to_places(total, map.shape[1:], scale_factor).flatten(0, 1)


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """As `carafe_naive_forward`; ``rfeatures`` receives the features, which is all that the caller keeps of them.

    ``routput`` and ``rmasks`` are scratch space of the compiled operator and unused.
    """
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """As `carafe_naive_backward`; the other ``r*`` tensors are scratch space of the compiled operator and unused."""
    carafe_naive_backward(top_grad, rfeatures, masks, bottom_grad, mask_grad, kernel_size, group_size, scale_factor)


def _by_source(map: Tensor, groups: int, scale: int) -> Tensor:
    """[G * X, H * s, W * s] -> [G, X, L, s * s]: the s x s output pixels of every input pixel."""
    height, width = map.size(1) // scale, map.size(2) // scale
    map = map.reshape(groups, -1, height, scale, width, scale).transpose(3, 4)
    return map.reshape(groups, -1, height * width, scale * scale)


def _to_places(values: Tensor, size: torch.Size, scale: int) -> Tensor:
    """[G, X, L, s * s] -> [G, X, H * s, W * s], the inverse of `_by_source`."""
    height, width = size
    values = values.view(*values.shape[:2], height, width, scale, scale).transpose(3, 4)
    return values.reshape(*values.shape[:2], height * scale, width * scale)


def _neighbours(map: Tensor, kernel: int, groups: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield (channels within each group, their k x k neighbourhoods [G, channels, k * k, L]) of a map [C, H, W]."""
    by_group = map.reshape(groups, -1, *map.shape[1:])
    step = max(1, NEIGHBOUR_BUDGET // (groups * map[0].numel() * kernel * kernel))
    for first in range(0, by_group.size(1), step):
        chosen = slice(first, first + step)
        part = by_group[:, chosen]
        columns = F.unfold(part.reshape(1, -1, *map.shape[1:]), kernel, padding=kernel // 2)
        yield chosen, columns.view(groups, part.size(1), kernel * kernel, -1)


def _sum_neighbours(columns: Tensor, size: torch.Size, kernel: int) -> Tensor:
    """[G, X, k * k, L] -> [G, X, H, W], the transpose of `_neighbours`."""
    map = F.fold(columns.reshape(1, -1, columns.size(3)), size, kernel, padding=kernel // 2)
    return map.view(*columns.shape[:2], *size)
