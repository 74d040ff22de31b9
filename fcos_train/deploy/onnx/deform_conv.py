"""Deformable convolution in a graph: ONNX's operator (from opset 19 on), older operators, or Ascend's operator.

Shape symbols: B images, C input and O output channels, D deformable groups, T taps of the kernel, h x w output size.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fcos_train.deploy.onnx.ascend_ops import DOMAIN
from fcos_train.deploy.onnx.spec import ExportGraph
from fcos_train.deploy.onnx.untraced import untraced

FIRST_WITH_OPERATOR = 19  # opset from which DeformConv exists
FIRST_WITH_GRID_SAMPLE = 16
Size = int | tuple[int, int]


@dataclass(frozen=True)
class ConvSettings:
    """Parameters of a deformable convolution; stride, padding and dilation as (y, x)."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    deform_groups: int


class Call(NamedTuple):
    """A deformable convolution of the model.

    Attributes:
        x, offset, mask, weight, bias: as for :func:`decomposed`.
        run: computes the result [B, O, h, w] with mmcv's operator.
    """

    x: Tensor
    offset: Tensor
    mask: Tensor | None
    weight: Tensor
    bias: Tensor | None
    settings: ConvSettings
    run: Callable[[], Tensor]


@contextlib.contextmanager
def traceable(graph: ExportGraph) -> Iterator[None]:
    """Make mmcv's deformable convolutions (v1 and v2) traceable; the end of the graph chooses the operators."""
    from mmcv.ops import deform_conv, modulated_deform_conv

    v1, v2 = deform_conv.deform_conv2d, modulated_deform_conv.modulated_deform_conv2d

    def plain(
        x: Tensor,
        offset: Tensor,
        weight: Tensor,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = False,
        im2col_step: int = 32,
    ) -> Tensor:
        settings = ConvSettings(_pair(stride), _pair(padding), _pair(dilation), groups, deform_groups)

        def run() -> Tensor:
            return v1(x, offset, weight, stride, padding, dilation, groups, deform_groups, bias, im2col_step)

        return graph.end.deform_conv(Call(x, offset, None, weight, None, settings, run))

    def modulated(
        x: Tensor,
        offset: Tensor,
        mask: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Size = 1,
        padding: Size = 0,
        dilation: Size = 1,
        groups: int = 1,
        deform_groups: int = 1,
    ) -> Tensor:
        settings = ConvSettings(_pair(stride), _pair(padding), _pair(dilation), groups, deform_groups)

        def run() -> Tensor:
            return v2(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups)

        return graph.end.deform_conv(Call(x, offset, mask, weight, bias, settings, run))

    deform_conv.deform_conv2d, modulated_deform_conv.modulated_deform_conv2d = plain, modulated
    try:
        yield
    finally:
        deform_conv.deform_conv2d, modulated_deform_conv.modulated_deform_conv2d = v1, v2


def standard(call: Call) -> Tensor:
    """Trace ONNX's DeformConv, or older operators where the opset does not have it."""
    x, offset, mask, weight, bias, settings, run = call
    if _opset() >= FIRST_WITH_OPERATOR:
        return _StandardConv.apply(x, weight, offset, bias, mask, settings, run)
    return decomposed(x, offset, mask, weight, bias, settings, grid_sample=_opset() >= FIRST_WITH_GRID_SAMPLE)


def on_ascend(call: Call) -> Tensor:
    """Trace Ascend's DeformableConv2D."""
    x, offset, mask, weight, bias, settings, run = call
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
    """Deformable convolution [B, O, h, w] as sampling and a matrix product; sizes are constants.

    Args:
        x: [B, C, H, W]. offset: [B, 2 * D * T, h, w], alternating y and x of each tap, in px.
        mask: [B, D * T, h, w] or None. weight: [O, C / groups, kh, kw]. bias: [O] or None.
        grid_sample: sample with torch's grid_sample, else by gathering the four neighbours.
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
    """Sampling positions of each tap without offset: y [T, h, 1] and x [T, 1, w], in px of the input."""
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
    """Bilinear samples [B, C, n, w] of images [B, C, H, W] at positions [B, n, w] in px; zero outside."""
    batch, channels, high, wide = (int(side) for side in image.shape)
    flat = image.reshape(batch, channels, high * wide)
    total: Any = 0.0  # then a tensor
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


class _Conv(torch.autograd.Function):
    """A deformable convolution that writes its own node."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        """Compute the result [B, O, h, w] with mmcv's operator, which is the last input."""
        with untraced():
            return inputs[-1]()


class _StandardConv(_Conv):
    """ONNX's DeformConv."""

    @staticmethod
    def symbolic(
        g: Any, x: Any, weight: Any, offset: Any, bias: Any, mask: Any, settings: ConvSettings, run: Any
    ) -> Any:
        """Write one node."""
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


class _AscendConv(_Conv):
    """Ascend's DeformableConv2D."""

    @staticmethod
    def symbolic(g: Any, x: Any, weight: Any, offsets: Any, bias: Any, settings: ConvSettings, run: Any) -> Any:
        """Write one node."""
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


def _absent(value: Any) -> bool:
    """Whether an optional input is None, as a Python value or as a value of the trace."""
    return value is None or (hasattr(value, "node") and value.node().mustBeNone())


def _result(x: Any, weight: Any, offset: Any) -> Any:
    """The type of the result [B, O, h, w]."""
    batch, (height, width) = x.type().sizes()[0], offset.type().sizes()[2:]
    return x.type().with_sizes([batch, weight.type().sizes()[0], height, width])


def _pair(value: Size) -> tuple[int, int]:
    """One number or two as (y, x)."""
    return (int(value), int(value)) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _opset() -> int:
    """The opset that is being written. Its location in torch changed between 2.4 and 2.13."""
    for name in ("torch.onnx._internal.torchscript_exporter._globals", "torch.onnx._globals"):
        with contextlib.suppress(ModuleNotFoundError):
            return int(importlib.import_module(name).GLOBALS.export_onnx_opset_version)
    return FIRST_WITH_GRID_SAMPLE
