"""Weighted sums of rows: the sparse product behind RoIAlign and deformable convolution.

Bilinear sampling is a sparse matrix times a table: output row n is the sum of K weighted table rows (corners, samples).
With the matrix stored as ``index`` [N, K] and ``weight`` [N, K] over a ``table`` [M, C] (one row per pixel, channels
contiguous), sampling, its transpose and the gradient of the weights are three short functions. No product [N, K, C] is
materialised, so the memory needed is that of the result.

On CPU and CUDA the sums run in ``embedding_bag``, a fused gather-and-sum kernel; the transpose runs in it too, over
the sorted indices, which makes the gradient deterministic. Other devices use gathers and ``index_add_``.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

FUSED_DEVICES = ("cpu", "cuda")


def gather_rows(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Sums of weighted rows: ``out[n] = sum_k weight[n, k] * table[index[n, k]]``.

    Args:
        table: values [M, C], fp32 or fp64.
        index: rows [N, K], int64 in [0, M).
        weight: [N, K], same dtype as ``table``.

    Returns:
        [N, C], same dtype as ``table``.
    """
    if index.numel() == 0:
        return table.new_zeros(index.size(0), table.size(1))
    if table.device.type in FUSED_DEVICES:
        return F.embedding_bag(index, table, per_sample_weights=weight, mode="sum")
    out = table.new_zeros(index.size(0), table.size(1))
    for k in range(index.size(1)):
        out.addcmul_(table.index_select(0, index[:, k]), weight[:, k : k + 1])
    return out


def scatter_rows(values: Tensor, index: Tensor, weight: Tensor, rows: int) -> Tensor:
    """The transpose of `gather_rows`: ``out[index[n, k]] += weight[n, k] * values[n]``.

    Args:
        values: [N, C], fp32 or fp64.
        index: rows [N, K], int64 in [0, rows).
        weight: [N, K], same dtype as ``values``.
        rows: number of rows of the result.

    Returns:
        [rows, C], same dtype as ``values``.
    """
    if index.numel() == 0:
        return values.new_zeros(rows, values.size(1))
    if values.device.type in FUSED_DEVICES:
        target, order = index.reshape(-1).sort(stable=True)
        starts = torch.searchsorted(target, torch.arange(rows, device=target.device))
        source = order.div(index.size(1), rounding_mode="floor")
        return F.embedding_bag(source, values, starts, per_sample_weights=weight.reshape(-1)[order], mode="sum")
    out = values.new_zeros(rows, values.size(1))
    for k in range(index.size(1)):
        out.index_add_(0, index[:, k], values * weight[:, k : k + 1])
    return out


def dot_rows(values: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """Gradient of `gather_rows` for the weights [N, K]: ``out[n, k] = <values[n], table[index[n, k]]>``."""
    return torch.stack([(table.index_select(0, column) * values).sum(1) for column in index.unbind(1)], 1)


class WeightedRows(torch.autograd.Function):
    """`gather_rows` with gradients for table and weights."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
        """`gather_rows` of table [M, C], index [N, K] and weight [N, K]: [N, C]."""
        ctx.save_for_backward(table, index, weight)
        return gather_rows(table, index, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        """Gradients [M, C] of the table and [N, K] of the weights, from ``grad`` [N, C]."""
        table, index, weight = ctx.saved_tensors
        grad = grad.contiguous()
        grad_table = scatter_rows(grad, index, weight, table.size(0)) if ctx.needs_input_grad[0] else None
        grad_weight = dot_rows(grad, table, index) if ctx.needs_input_grad[2] else None
        return grad_table, None, grad_weight


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp32 or wider, for coordinates and sums: 16 bits cannot hold a pixel position to a fraction of a pixel."""
    return torch.promote_types(dtype, torch.float32)


def own_dtype(input: Tensor) -> AbstractContextManager:
    """Disables autocast: an operator computes in the type of its arguments."""
    return torch.autocast(input.device.type, enabled=False)
