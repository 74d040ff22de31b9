"""The attention masks of PSANet (Zhao et al., 2018): a map of relative weights spread over all pairs of places.

Shapes: B images, H x W places, h x w mask around each place.
"""

import torch
from torch import Tensor

COLLECT = 0


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Write the weight of each place for each other one into ``output``.

    Args:
        input: [B, h * w, H, W], for each place the weights of the h x w places around it.
        output: [B, H * W, H, W], overwritten. Collect: ``output[:, j, i]`` is the weight that place i gives place j;
            distribute: ``output[:, i, j]`` is. Places outside the mask have weight 0.
        psa_type: 0 collect, 1 distribute.
        num_: B.
        h_feature: H.
        w_feature: W.
        h_mask: h.
        w_mask: w.
        half_h_mask: row of the place itself in the mask.
        half_w_mask: column of the place itself in the mask.
    """
    index, valid = _pairs(input, (h_feature, w_feature), (h_mask, w_mask), (half_h_mask, half_w_mask))
    spread = input.flatten(1)[:, index.flatten()].view(-1, *index.shape) * valid  # [B, other place, place]
    output.copy_((spread if psa_type == COLLECT else spread.transpose(1, 2)).reshape(output.shape))


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Write the gradient of the input [B, h * w, H, W] into ``grad_input``; arguments as in `psamask_forward`."""
    index, valid = _pairs(grad_input, (h_feature, w_feature), (h_mask, w_mask), (half_h_mask, half_w_mask))
    grad = grad_output.reshape(-1, *index.shape)
    grad = (grad if psa_type == COLLECT else grad.transpose(1, 2)) * valid
    total = torch.zeros_like(grad_input.flatten(1))
    total.index_add_(1, index.flatten(), grad.flatten(1))
    grad_input.copy_(total.view(grad_input.shape))


def _pairs(input: Tensor, size: tuple[int, int], mask: tuple[int, int], half: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(place of each pair's weight in an image of ``input``, whether the mask has one), both [other place, place]."""
    parts, valid = [], []
    for axis in (0, 1):
        place = torch.arange(size[axis], device=input.device)
        relative = place[:, None] - place + half[axis]  # [other place, place]
        valid.append((relative >= 0) & (relative < mask[axis]))
        parts.append((relative.clamp(0, mask[axis] - 1), place))
    (y, row), (x, column) = parts
    relative = y[:, None, :, None] * mask[1] + x[None, :, None, :]  # [H, W, H, W]
    index = relative * (size[0] * size[1]) + row[:, None] * size[1] + column
    inside = valid[0][:, None, :, None] & valid[1][None, :, None, :]
    places = size[0] * size[1]
    return index.view(places, places), inside.view(places, places)
