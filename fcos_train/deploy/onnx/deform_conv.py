"""Deformable convolution in a graph: Ascend's operator, ONNX's (from opset 19 on), or made of older operators.

Letters: B images, C input and O output channels, D deformable groups, T taps of the kernel, h x w output places.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fcos_train.deploy.onnx.ascend_ops import DOMAIN
from fcos_train.deploy.onnx.spec import ExportGraph
from fcos_train.deploy.onnx.untraced import untraced

FIRST_WITH_OPERATOR = 19  # opset that has DeformConv
FIRST_WITH_GRID_SAMPLE = 16


@dataclass(frozen=True)
class ConvSettings:
    """Stride, padding and dilation as (y, x), and the two kinds of groups."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    deform_groups: int


@contextlib.contextmanager
def traceable(graph: ExportGraph) -> Iterator[None]:
    """While it lasts, mmcv's deformable convolutions (v1 and v2) can be written as ONNX."""
    from mmcv.ops import deform_conv, modulated_deform_conv

    v1, v2 = deform_conv.deform_conv2d, modulated_deform_conv.modulated_deform_conv2d

    def plain(
        x, offset, weight, stride=1, padding=0, dilation=1, groups=1, deform_groups=1, bias=False, im2col_step=32
    ):
        settings = ConvSettings(_pair(stride), _pair(padding), _pair(dilation), groups, deform_groups)

        def run():
            return v1(x, offset, weight, stride, padding, dilation, groups, deform_groups, bias, im2col_step)

        return graph.end.deform_conv(x, offset, None, weight, None, settings, run)

    def modulated(x, offset, mask, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, deform_groups=1):
        settings = ConvSettings(_pair(stride), _pair(padding), _pair(dilation), groups, deform_groups)

        def run():
            return v2(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups)

        return graph.end.deform_conv(x, offset, mask, weight, bias, settings, run)

    deform_conv.deform_conv2d, modulated_deform_conv.modulated_deform_conv2d = plain, modulated
    try:
        yield
    finally:
        deform_conv.deform_conv2d, modulated_deform_conv.modulated_deform_conv2d = v1, v2


def standard(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    settings: ConvSettings,
    run: Callable[[], Tensor],
) -> Tensor:
    """Trace ONNX's DeformConv, or older operators where the opset does not have it.

    Args:
        x, offset, mask, weight, bias: as for :func:`decomposed`.
        run: computes the result [B, O, h, w] with mmcv's operator.
    """
    if _opset() >= FIRST_WITH_OPERATOR:
        return _StandardConv.apply(x, weight, offset, bias, mask, settings, run)
    return decomposed(x, offset, mask, weight, bias, settings, grid_sample=_opset() >= FIRST_WITH_GRID_SAMPLE)


def on_ascend(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    settings: ConvSettings,
    run: Callable[[], Tensor],
) -> Tensor:
    """Trace Ascend's DeformableConv2D; arguments as for :func:`standard`."""
    factor = torch.ones_like(offset[:, ::2]) if mask is None else mask
    # mmcv alternates y and x of each tap; Ascend takes all x, all y, all factors.
    offsets = torch.cat((offset[:, 1::2], offset[:, 0::2], factor), 1)
    return _AscendConv.apply(x, weight, offsets, bias, settings, run)


def decomposed(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    settings: ConvSettings,
    grid_sample: bool = True,
) -> Tensor:
    """Deformable convolution [B, O, h, w] of sampling and a product of matrices; sizes are constants.

    Args:
        x: [B, C, H, W]. offset: [B, 2 * D * T, h, w], y and x of each tap in turn, in px.
        mask: [B, D * T, h, w] or None. weight: [O, C / groups, kh, kw]. bias: [O] or None.
        grid_sample: sample by torch's grid_sample; else by gathering the four neighbours.
    """
    batch, channels, high, wide = (int(side) for side in x.shape)
    height, width = int(offset.shape[2]), int(offset.shape[3])
    taps, parts = int(weight.shape[2] * weight.shape[3]), settings.deform_groups
    moves = offset.reshape(batch, parts, taps, 2, height, width)
    base_y, base_x = _base(weight, height, width, settings)
    y = (moves[:, :, :, 0] + base_y).reshape(batch * parts, taps * height, width)
    x_at = (moves[:, :, :, 1] + base_x).reshape(batch * parts, taps * height, width)
    image = x.reshape(batch * parts, channels // parts, high, wide)
    if grid_sample:
        grid = torch.stack(((2 * x_at + 1) / wide - 1, (2 * y + 1) / high - 1), -1)
        columns = torch.nn.functional.grid_sample(image, grid, align_corners=False)
    else:
        columns = _gathered(image, y, x_at)
    columns = columns.reshape(batch, parts, channels // parts, taps, height * width)
    if mask is not None:
        columns = columns * mask.reshape(batch, parts, 1, taps, height * width)
    columns = columns.reshape(batch, settings.groups, -1, height * width)
    kernels = weight.reshape(settings.groups, int(weight.shape[0]) // settings.groups, -1)
    out = torch.matmul(kernels, columns).reshape(batch, -1, height, width)
    return out if bias is None else out + bias.reshape(1, -1, 1, 1)


def _base(weight: Tensor, height: int, width: int, settings: ConvSettings) -> tuple[Tensor, Tensor]:
    """Where each tap samples without offset: y [T, h, 1] and x [T, 1, w], in px of the padded input."""
    rows, columns = int(weight.shape[2]), int(weight.shape[3])
    tap = torch.arange(rows * columns)
    tap_y, tap_x = (
        torch.div(tap, columns, rounding_mode="floor") * settings.dilation[0],
        tap % columns * settings.dilation[1],
    )
    y = torch.arange(height) * settings.stride[0] - settings.padding[0]
    x = torch.arange(width) * settings.stride[1] - settings.padding[1]
    return (tap_y[:, None, None] + y[None, :, None]).float(), (tap_x[:, None, None] + x[None, None, :]).float()


def _gathered(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bilinear samples [B, C, n, w] of images [B, C, H, W] at places [B, n, w]; zero outside."""
    batch, channels, high, wide = (int(side) for side in image.shape)
    flat, total = image.reshape(batch, channels, high * wide), 0.0
    low_y, low_x = y.floor(), x.floor()
    for step_y in (0.0, 1.0):
        for step_x in (0.0, 1.0):
            row, column = low_y + step_y, low_x + step_x
            inside = (row >= 0) & (row <= high - 1) & (column >= 0) & (column <= wide - 1)
            share = (1 - (y - row).abs()) * (1 - (x - column).abs()) * inside.to(y.dtype)
            place = (row.clamp(0, high - 1) * wide + column.clamp(0, wide - 1)).to(torch.int64)
            index = place.reshape(batch, 1, -1).expand(batch, channels, -1)
            total = total + flat.gather(2, index) * share.reshape(batch, 1, -1)
    return total.reshape(batch, channels, *y.shape[1:])


class _StandardConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, offset, bias, mask, settings, run):
        with untraced():
            return run()

    @staticmethod
    def symbolic(g, x, weight, offset, bias, mask, settings: ConvSettings, run):
        nothing = g.op("Constant", value_t=torch.zeros(weight.type().sizes()[0]))
        inputs = [x, weight, offset]
        if not _absent(bias) or not _absent(mask):
            inputs.append(nothing if _absent(bias) else bias)
        if not _absent(mask):
            inputs.append(mask)
        return g.op(
            "DeformConv",
            *inputs,
            strides_i=settings.stride,
            pads_i=settings.padding * 2,
            dilations_i=settings.dilation,
            group_i=settings.groups,
            offset_group_i=settings.deform_groups,
            kernel_shape_i=weight.type().sizes()[2:],
        ).setType(_result(x, weight, offset))


class _AscendConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, offsets, bias, settings, run):
        with untraced():
            return run()

    @staticmethod
    def symbolic(g, x, weight, offsets, bias, settings: ConvSettings, run):
        return g.op(
            f"{DOMAIN}::DeformableConv2D",
            *((x, weight, offsets) if _absent(bias) else (x, weight, offsets, bias)),
            strides_i=settings.stride,
            pads_i=settings.padding,
            dilations_i=settings.dilation,
            groups_i=settings.groups,
            deformable_groups_i=settings.deform_groups,
            bias_i=0,
            im2col_step_i=32,
            data_format_s="NCHW",
        ).setType(_result(x, weight, offsets))


def _absent(value) -> bool:
    return value is None or (hasattr(value, "node") and value.node().mustBeNone())


def _result(x, weight, offset):
    """Type of [B, O, h, w]."""
    batch, (height, width) = x.type().sizes()[0], offset.type().sizes()[2:]
    return x.type().with_sizes([batch, weight.type().sizes()[0], height, width])


def _pair(value) -> tuple[int, int]:
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _opset() -> int:
    """The opset that is being written. Where torch keeps it has changed between 2.4 and 2.13."""
    for name in ("torch.onnx._internal.torchscript_exporter._globals", "torch.onnx._globals"):
        with contextlib.suppress(ModuleNotFoundError):
            return int(importlib.import_module(name).GLOBALS.export_onnx_opset_version)
    return FIRST_WITH_GRID_SAMPLE
