"""GroupNorm of channels_last maps, with or without the ReLU after it: Triton kernels, forward and backward.

torch's own CUDA kernel supports NCHW only and copies a channels_last map to NCHW and back; under autocast it also runs
in fp32. These kernels read and write channels_last in the dtype of the map, with all sums in fp32. The forward pass
reads the map twice (statistics, then the result), the backward pass reads the map and its gradient twice. The ReLU adds
no pass.

Shape symbols: B images, N positions of a map, C channels, G groups of K channels, S slices of the positions; PG and PK
are G and K rounded up to powers of two, as Triton requires. G and K are constants of a compiled kernel; otherwise it
would load element by element. One program handles one slice of one image. The statistics of slices are merged as in
Chan, Golub and LeVeque (Updating formulae and a pairwise algorithm for computing sample variances, 1979), which avoids
cancellation. The derivative is that of :mod:`.group_norm`: with y' the gradient masked by the ReLU and x^ the
normalised map,

    dx = rstd (w y' - (A + x^ D) / (N K)),  A = sum of w y' and D = sum of w y' x^ over the group.

Import this module only if Triton is installed. With ``TRITON_INTERPRET=1`` it runs on CPU tensors, for tests.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 8192  # elements of a map that a program holds at a time: 32 per thread
WARPS = 8
MOST_SLICES = 128
PROGRAMS_PER_PROCESSOR = 4


@triton.jit
def _slice_tile(
    row, first, end, STEP: tl.constexpr, G: tl.constexpr, K: tl.constexpr, PG: tl.constexpr, PK: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Offsets and mask of the tile [STEP, G, K] that starts at position ``first``."""
    n = first + tl.arange(0, STEP)[:, None, None]
    g = tl.arange(0, PG)[None, :, None]
    k = tl.arange(0, PK)[None, None, :]
    inside = (n < end) & (g < G) & (k < K)
    return row + n.to(tl.int64) * (G * K) + g * K + k, inside


@triton.jit
def _channels(pointer, G: tl.constexpr, K: tl.constexpr, PG: tl.constexpr, PK: tl.constexpr) -> tl.tensor:
    """A vector over channels as [G, K], fp32."""
    g, k = tl.arange(0, PG)[:, None], tl.arange(0, PK)[None, :]
    return tl.load(pointer + g * K + k, mask=(g < G) & (k < K), other=0.0).to(tl.float32)


@triton.jit
def _moments(x_ptr, part_ptr, positions, rows, STEP: tl.constexpr,
             G: tl.constexpr, K: tl.constexpr, PG: tl.constexpr, PK: tl.constexpr) -> None:  # fmt: skip
    """Mean and sum of squared deviations of every group within one slice -> part [B, S, 2, G]."""
    s, b = tl.program_id(0), tl.program_id(1)
    row = b.to(tl.int64) * positions * G * K
    first, end = s * rows, tl.minimum(s * rows + rows, positions)
    mean, spread = tl.zeros((PG,), tl.float32), tl.zeros((PG,), tl.float32)
    for start in range(first, end, STEP):
        at, inside = _slice_tile(row, start, end, STEP, G, K, PG, PK)
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
        count = (tl.minimum(start + STEP, end) - start) * K * 1.0
        before = (start - first) * K * 1.0
        own = tl.sum(tl.sum(x, 2), 0) / count
        apart = tl.where(inside, x - own[None, :, None], 0.0)
        shift = own - mean
        spread += tl.sum(tl.sum(apart * apart, 2), 0) + shift * shift * (before * count / (before + count))
        mean += shift * (count / (before + count))
    g = tl.arange(0, PG)
    out = part_ptr + (b * tl.num_programs(0) + s) * 2 * G + g
    tl.store(out, mean, mask=g < G)
    tl.store(out + G, spread, mask=g < G)


@triton.jit
def _merged_moments(part_ptr, b, slices, positions, rows, eps,
                    SLICES: tl.constexpr, G: tl.constexpr, K: tl.constexpr,
                    PG: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:  # fmt: skip
    """Mean and 1 / deviation [G] of an image, from the statistics of its slices."""
    s, g = tl.arange(0, SLICES)[:, None], tl.arange(0, PG)[None, :]
    known = (s < slices) & (g < G)
    at = part_ptr + (b * slices + s) * 2 * G + g
    means = tl.load(at, mask=known, other=0.0)
    spreads = tl.load(at + G, mask=known, other=0.0)
    count = tl.maximum(tl.minimum(rows, positions - s * rows), 0) * K * 1.0
    total = positions * K * 1.0
    mean = tl.sum(means * count, 0) / total
    apart = tl.where(known, means - mean[None, :], 0.0)
    variance = (tl.sum(spreads, 0) + tl.sum(apart * apart * count, 0)) / total
    return mean, 1.0 / tl.sqrt(variance + eps)


@triton.jit
def _normalise(x_ptr, y_ptr, part_ptr, stats_ptr, weight_ptr, bias_ptr, slices, positions, rows, eps,
               RELU: tl.constexpr, STEP: tl.constexpr, SLICES: tl.constexpr,
               G: tl.constexpr, K: tl.constexpr, PG: tl.constexpr, PK: tl.constexpr) -> None:  # fmt: skip
    """The result for one slice; the first slice stores mean and 1 / deviation -> stats [B, 2, G]."""
    s, b = tl.program_id(0), tl.program_id(1)
    mean, rstd = _merged_moments(part_ptr, b, slices, positions, rows, eps, SLICES, G, K, PG)
    if s == 0:
        g = tl.arange(0, PG)
        out = stats_ptr + b * 2 * G + g
        tl.store(out, mean, mask=g < G)
        tl.store(out + G, rstd, mask=g < G)
    scale = _channels(weight_ptr, G, K, PG, PK)[None] * rstd[None, :, None]
    bias = _channels(bias_ptr, G, K, PG, PK)[None]
    row = b.to(tl.int64) * positions * G * K
    first, end = s * rows, tl.minimum(s * rows + rows, positions)
    tiles = tl.cdiv(end - first, STEP)
    for tile in range(0, tiles):
        # Last tile first: the previous pass read the end of the slice last, so it may still be in the cache.
        at, inside = _slice_tile(row, first + (tiles - 1 - tile) * STEP, end, STEP, G, K, PG, PK)
        x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
        y = (x - mean[None, :, None]) * scale + bias
        if RELU:
            y = tl.where(y < 0, 0.0, y)  # NaN stays NaN
        tl.store(y_ptr + at, y.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _masked(x_ptr, grad_ptr, at, inside, mean, rstd, weight, bias, RELU: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """The normalised map, and the gradient masked by the ReLU, fp32."""
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + at, mask=inside, other=0.0).to(tl.float32)
    x = tl.where(inside, (x - mean[None, :, None]) * rstd[None, :, None], 0.0)
    if RELU:
        grad = tl.where(x * weight + bias > 0, grad, 0.0)
    return x, grad


@triton.jit
def _gradient_sums(x_ptr, grad_ptr, stats_ptr, weight_ptr, bias_ptr, by_channel_ptr, by_group_ptr,
                   positions, rows, RELU: tl.constexpr, STEP: tl.constexpr,
                   G: tl.constexpr, K: tl.constexpr, PG: tl.constexpr, PK: tl.constexpr) -> None:  # fmt: skip
    """Sums of y' x^ and of y' over one slice: per channel [B, S, 2, C], and weighted per group [B, S, 2, G]."""
    s, b = tl.program_id(0), tl.program_id(1)
    g = tl.arange(0, PG)
    k = tl.arange(0, PK)
    mean = tl.load(stats_ptr + b * 2 * G + g, mask=g < G, other=0.0)
    rstd = tl.load(stats_ptr + b * 2 * G + G + g, mask=g < G, other=0.0)
    weight = _channels(weight_ptr, G, K, PG, PK)
    bias = _channels(bias_ptr, G, K, PG, PK)
    products, sums = tl.zeros((PG, PK), tl.float32), tl.zeros((PG, PK), tl.float32)
    row = b.to(tl.int64) * positions * G * K
    first, end = s * rows, tl.minimum(s * rows + rows, positions)
    for start in range(first, end, STEP):
        at, inside = _slice_tile(row, start, end, STEP, G, K, PG, PK)
        x, grad = _masked(x_ptr, grad_ptr, at, inside, mean, rstd, weight[None], bias[None], RELU)
        products += tl.sum(grad * x, 0)
        sums += tl.sum(grad, 0)
    program = b * tl.num_programs(0) + s
    out = by_channel_ptr + program * 2 * G * K + g[:, None] * K + k[None, :]
    known = (g[:, None] < G) & (k[None, :] < K)
    tl.store(out, products, mask=known)
    tl.store(out + G * K, sums, mask=known)
    out = by_group_ptr + program * 2 * G + g
    tl.store(out, tl.sum(products * weight, 1), mask=g < G)
    tl.store(out + G, tl.sum(sums * weight, 1), mask=g < G)


@triton.jit
def _input_gradient(x_ptr, grad_ptr, out_ptr, stats_ptr, weight_ptr, bias_ptr, by_group_ptr,
                    slices, positions, rows, RELU: tl.constexpr, STEP: tl.constexpr, SLICES: tl.constexpr,
                    G: tl.constexpr, K: tl.constexpr, PG: tl.constexpr, PK: tl.constexpr) -> None:  # fmt: skip
    """The gradient of the map on one slice."""
    s, b = tl.program_id(0), tl.program_id(1)
    i, g = tl.arange(0, SLICES)[:, None], tl.arange(0, PG)
    sums = by_group_ptr + (b * slices + i) * 2 * G + g[None, :]
    known = (i < slices) & (g[None, :] < G)
    total = positions * K * 1.0
    by_x = tl.sum(tl.load(sums, mask=known, other=0.0), 0) / total
    by_one = tl.sum(tl.load(sums + G, mask=known, other=0.0), 0) / total
    mean = tl.load(stats_ptr + b * 2 * G + g, mask=g < G, other=0.0)
    rstd = tl.load(stats_ptr + b * 2 * G + G + g, mask=g < G, other=0.0)
    weight = _channels(weight_ptr, G, K, PG, PK)[None]
    bias = _channels(bias_ptr, G, K, PG, PK)[None]
    row = b.to(tl.int64) * positions * G * K
    first, end = s * rows, tl.minimum(s * rows + rows, positions)
    tiles = tl.cdiv(end - first, STEP)
    for tile in range(0, tiles):
        at, inside = _slice_tile(row, first + (tiles - 1 - tile) * STEP, end, STEP, G, K, PG, PK)
        x, grad = _masked(x_ptr, grad_ptr, at, inside, mean, rstd, weight, bias, RELU)
        out = rstd[None, :, None] * (weight * grad - (by_one[None, :, None] + x * by_x[None, :, None]))
        tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=inside)


@cache
def _processors(index: int | None) -> int:
    """Multiprocessors of a device; those of an H100 without one."""
    return 132 if index is None else torch.cuda.get_device_properties(index).multi_processor_count


class _Plan:
    """The partition of a map: slices of ``rows`` positions, tiles of ``STEP`` positions."""

    def __init__(self, x: Tensor, groups: int) -> None:
        batch, channels, height, width = x.shape
        self.positions = height * width
        per_group = channels // groups
        padded = triton.next_power_of_2(groups), triton.next_power_of_2(per_group)
        step = min(max(TILE // (padded[0] * padded[1]), 1), triton.next_power_of_2(self.positions))
        self.tile = {"STEP": step, "G": groups, "K": per_group, "PG": padded[0], "PK": padded[1], "num_warps": WARPS}
        tiles = triton.cdiv(self.positions, step)
        wanted = triton.cdiv(_processors(x.device.index) * PROGRAMS_PER_PROCESSOR, batch)
        self.rows = triton.cdiv(tiles, min(tiles, wanted, MOST_SLICES)) * step
        self.slices = triton.cdiv(self.positions, self.rows)
        self.grid = (self.slices, batch)
        self.all_slices = {"SLICES": triton.next_power_of_2(self.slices)}


class _TritonGroupNormReLU(torch.autograd.Function):
    """GroupNorm of channels_last maps on a GPU, with ReLU if ``relu``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, relu: bool) -> Tensor:
        """x [B, C, H, W], weight and bias [C] -> y like x."""
        plan = _Plan(x, groups)
        y = torch.empty_like(x)
        part = torch.empty((x.shape[0], plan.slices, 2, groups), device=x.device)
        stats = torch.empty((x.shape[0], 2, groups), device=x.device)
        sizes = (plan.positions, plan.rows)
        _moments[plan.grid](x, part, *sizes, **plan.tile)
        _normalise[plan.grid](
            x, y, part, stats, weight, bias, plan.slices, *sizes, eps, RELU=relu, **plan.tile, **plan.all_slices
        )
        ctx.save_for_backward(x, weight, bias, stats)
        ctx.groups, ctx.relu = groups, relu
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight and bias."""
        x, weight, bias, stats = ctx.saved_tensors
        plan = _Plan(x, ctx.groups)
        grad = grad.contiguous(memory_format=torch.channels_last)
        out = torch.empty_like(x)
        by_channel = torch.empty((x.shape[0], plan.slices, 2, x.shape[1]), device=x.device)
        by_group = torch.empty((x.shape[0], plan.slices, 2, ctx.groups), device=x.device)
        sizes = (plan.positions, plan.rows)
        _gradient_sums[plan.grid](
            x, grad, stats, weight, bias, by_channel, by_group, *sizes, RELU=ctx.relu, **plan.tile
        )
        _input_gradient[plan.grid](
            x,
            grad,
            out,
            stats,
            weight,
            bias,
            by_group,
            plan.slices,
            *sizes,
            RELU=ctx.relu,
            **plan.tile,
            **plan.all_slices,
        )
        by_weight, by_bias = by_channel.sum((0, 1)).unbind()
        return out, by_weight.to(weight.dtype), by_bias.to(bias.dtype), None, None, None


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, relu: bool = False) -> Tensor:
    """GroupNorm of ``x`` [B, C, H, W], then ReLU if ``relu``; dtype and memory format are those of ``x``.

    Args:
        x: fp32, bf16 or fp16, contiguous in channels_last, on the current CUDA device.
        weight, bias: [C], any of these dtypes.
    """
    return _TritonGroupNormReLU.apply(x, weight, bias, groups, eps, relu)
