"""Multi-scale deformable attention (Zhu et al., 2020, https://arxiv.org/abs/2010.04159), forward and backward.

A query's result is a weighted sum of rows of the value table: four corners for each sampling point. On devices with
fused row sums it is computed as such by `rows`, without the samples [.., points, channels]; others use ``grid_sample``.

Shapes: B images, S keys (pixels of all levels), Q queries, M heads, D channels per head, L levels, N points per level.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcv_overrides.ops import rows
from mmcv_overrides.ops.bilinear import fading_corners
from mmcv_overrides.ops.rows import compute_dtype, own_dtype

# Bound on memory: taps (pairs of row and weight) of one chunk of queries.
TAP_BUDGET = 1 << 21


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_loc: Tensor,
    attn_weight: Tensor,
    im2col_step: int,
) -> Tensor:
    """Sum the values at the sampling points of every query and head.

    Args:
        value: [B, S, M, D].
        spatial_shapes: (height, width) of the levels [L, 2].
        level_start_index: first key of each level [L].
        sampling_loc: [B, Q, M, L, N, 2], (x, y), 0 to 1 from one border of the level to the other. Outside, values
            are 0.
        attn_weight: [B, Q, M, L, N].
        im2col_step: unused.

    Returns:
        [B, Q, M * D], in the type of ``value``.
    """
    sizes = spatial_shapes.tolist()
    output = value.new_empty(*sampling_loc.shape[:2], value.size(2) * value.size(3))
    with own_dtype(value):
        for chunk in _chunks(sampling_loc):
            output[chunk] = _attend(value[chunk[0]], sizes, sampling_loc[chunk], attn_weight[chunk]).to(output.dtype)
    return output


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_loc: Tensor,
    attn_weight: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Write the gradients of `ms_deform_attn_forward` into the ``grad_*`` tensors, which are 0 when it is called.

    ``grad_output`` is [B, Q, M * D].
    """
    sizes = spatial_shapes.tolist()
    with own_dtype(value):
        for chunk in _chunks(sampling_loc):
            leaves = [t.detach().requires_grad_() for t in (value[chunk[0]], sampling_loc[chunk], attn_weight[chunk])]
            with torch.enable_grad():
                out = _attend(leaves[0], sizes, leaves[1], leaves[2])
            gradients = torch.autograd.grad(out, leaves, grad_output[chunk].to(out.dtype))
            grad_value[chunk[0]] += gradients[0]
            grad_sampling_loc[chunk], grad_attn_weight[chunk] = gradients[1:]


def _chunks(places: Tensor) -> Iterator[tuple[int, slice]]:
    """Yield (image, queries) so that the taps of a chunk, four for each point, are within the memory bound."""
    step = max(1, TAP_BUDGET // max(1, 2 * places[0, 0].numel())) if places.size(1) else 1
    for image in range(places.size(0)):
        for first in range(0, places.size(1), step):
            yield image, slice(first, first + step)


def _attend(value: Tensor, sizes: list[list[int]], places: Tensor, weights: Tensor) -> Tensor:
    """[Q, M * D] of one image; fp32 or wider."""
    dtype = compute_dtype(value.dtype)
    value, places, weights = value.to(dtype), places.to(dtype), weights.to(dtype)
    by_rows = value.device.type in rows.FUSED_DEVICES
    return (_by_rows if by_rows else _by_grid_sample)(value, sizes, places, weights)


def _by_rows(value: Tensor, sizes: list[list[int]], places: Tensor, weights: Tensor) -> Tensor:
    """Rows of the table are (key, head); index and weight are [Q * M, L * N * 4]."""
    keys, heads, channels = value.shape
    index, weight, first = [], [], 0
    for level, (height, width) in enumerate(sizes):
        x, y = places[:, :, level].unbind(-1)  # [Q, M, N]
        corner, share = fading_corners(y * height - 0.5, x * width - 0.5, height, width)
        index.append(corner + first)
        weight.append(share * weights[:, :, level, :, None])
        first += height * width
    head = torch.arange(heads, device=value.device)[:, None, None]
    table_index = (torch.stack(index, 2).flatten(3) * heads + head).reshape(places.size(0) * heads, -1)
    table_weight = torch.stack(weight, 2).reshape(table_index.shape)
    out = rows.WeightedRows.apply(value.reshape(keys * heads, channels), table_index, table_weight)
    return out.view(-1, heads * channels)


def _by_grid_sample(value: Tensor, sizes: list[list[int]], places: Tensor, weights: Tensor) -> Tensor:
    """One ``grid_sample`` per level, with the heads as its batch."""
    levels = value.split([height * width for height, width in sizes])
    out = torch.zeros(1, device=value.device)
    for level, (height, width) in enumerate(sizes):
        map = levels[level].permute(1, 2, 0).reshape(value.size(1), -1, height, width)  # [M, D, H, W]
        grid = (2 * places[:, :, level] - 1).transpose(0, 1)  # [M, Q, N, 2]
        samples = F.grid_sample(map, grid, align_corners=False)  # [M, D, Q, N]
        out = out + (samples * weights[:, :, level].transpose(0, 1)[:, None]).sum(3)
    return out.permute(2, 0, 1).flatten(1)
