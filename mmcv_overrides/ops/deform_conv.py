"""Deformable convolution v1 (Dai et al., 2017, https://arxiv.org/abs/1703.06211) and v2 with a mask (Zhu et al., 2018,
https://arxiv.org/abs/1811.11168): bilinear sampling with `rows`, then one matrix product.

Shapes: B images, C input and O output channels, H x W input, K = kh * kw kernel taps, L = h * w output positions,
D deformable groups, S groups of the matrix product. Images are processed one at a time, which bounds the memory to the
columns of one image.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcv_overrides.errors import UserError
from mmcv_overrides.ops.bilinear import fading_corners
from mmcv_overrides.ops.rows import WeightedRows, compute_dtype, own_dtype


@dataclass(frozen=True)
class _Geometry:
    """Kernel, stride, padding and dilation, each as (y, x), and the two kinds of groups."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    deform_groups: int


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **geometry: int,
) -> None:
    """Deformable convolution v1, without a mask.

    Args:
        input: [B, C, H, W].
        weight: [O, C / S, kh, kw].
        offset: [B, D * K * 2, h, w], (y, x) per tap, in input pixels.
        output: [B, O, h, w], overwritten.
        columns: unused (scratch space of the compiled operator).
        ones: unused (scratch space of the compiled operator).
        geometry: ``kW kH dW dH padW padH dilationW dilationH group deformable_group im2col_step``.
    """
    _forward(input, offset, None, weight, output, _geometry_v1(geometry))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **geometry: int,
) -> None:
    """Add the gradients of input and offset to ``grad_input`` and ``grad_offset``."""
    _backward(input, offset, None, weight, grad_output, _geometry_v1(geometry), grad_input, grad_offset)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    scale: float = 1,
    **geometry: int,
) -> None:
    """Add ``scale`` times the gradient of the weight to ``grad_weight``."""
    shape = _geometry_v1(geometry)
    _backward(input, offset, None, None, grad_output * scale, shape, grad_weight=grad_weight)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Deformable convolution v2, with a factor per tap.

    Args:
        input: [B, C, H, W].
        weight: [O, C / S, kh, kw].
        bias: [O], added if ``with_bias``.
        ones: unused (scratch space of the compiled operator).
        offset: [B, D * K * 2, h, w], (y, x) per tap, in input pixels; may be larger, see `_leading`.
        mask: [B, D * K, h, w], the factors; may be larger.
        output: [B, O, h, w], overwritten.
        columns: unused (scratch space of the compiled operator).
        with_bias: whether to add ``bias``.
        geometry: ``kernel_h kernel_w stride_h stride_w pad_h pad_w dilation_h dilation_w group deformable_group``.

    Raises:
        UserError: offset or mask are smaller than the output.
    """
    offset, mask = _leading(offset, output), _leading(mask, output)
    _forward(input, offset, mask, weight, output, _geometry_v2(geometry))
    if with_bias:
        output += bias.view(1, -1, 1, 1)


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Add the gradients of every argument of `modulated_deform_conv_forward` to the ``grad_*`` tensors."""
    offset, mask = _leading(offset, grad_output), _leading(mask, grad_output)
    grads = torch.zeros_like(offset), torch.zeros_like(mask)
    _backward(input, offset, mask, weight, grad_output, _geometry_v2(geometry), grad_input, *grads, grad_weight)
    for total, grad in zip((grad_offset, grad_mask), grads, strict=True):
        unused = total[0].numel() - grad[0].numel()
        total += F.pad(grad.flatten(1), (0, unused)).view(total.shape)
    if with_bias:
        grad_bias += grad_output.sum((0, 2, 3))


def _leading(values: Tensor, output: Tensor) -> Tensor:
    """The first values of each image, as many as the output has places, from offsets or a mask [B, X, H', W'].

    The compiled operator reads the memory of an image as [X, h, w] whatever its size is. mmdet's DyHead relies on that:
    it applies the offsets of a finer level to a coarser one. The values behind have no influence.

    Returns:
        [B, X, h, w] with the h x w of ``output``; ``values`` itself if it has that size.
    """
    if values.shape[2:] == output.shape[2:]:
        return values
    wanted = values.shape[:2] + output.shape[2:]
    if values[0].numel() < wanted[1:].numel():
        raise UserError(
            f"modulated deformable convolution: offset and mask are {_size(values)}, the output is {_size(output)}; "
            "they need a value for every place of the output. Give the layer that makes the offsets the same stride, "
            "padding and dilation as the deformable layer."
        )
    return values.flatten(1)[:, : wanted[1:].numel()].reshape(wanted)


def _size(map: Tensor) -> str:
    return " x ".join(str(side) for side in map.shape[2:])


def _geometry_v1(names: dict[str, int]) -> _Geometry:
    return _geometry(names, ("kH", "kW"), ("dH", "dW"), ("padH", "padW"), ("dilationH", "dilationW"))


def _geometry_v2(names: dict[str, int]) -> _Geometry:
    return _geometry(names, *((f"{name}_h", f"{name}_w") for name in ("kernel", "stride", "pad", "dilation")))


def _geometry(names: dict[str, int], *pairs: tuple[str, str]) -> _Geometry:
    kernel, stride, padding, dilation = ((names[y], names[x]) for y, x in pairs)
    return _Geometry(kernel, stride, padding, dilation, names["group"], names["deformable_group"])


def _forward(
    input: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, output: Tensor, geometry: _Geometry
) -> None:
    matrix = _weight_matrix(weight, geometry.groups)
    with own_dtype(input):
        for image in range(input.size(0)):
            columns = _columns(input[image], offset[image], None if mask is None else mask[image], geometry)
            product = _by_group(columns, geometry).to(input.dtype) @ matrix  # [S, L, O / S]
            output[image] = product.transpose(1, 2).reshape(output.shape[1:])


def _backward(
    input: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor | None,
    grad_output: Tensor,
    geometry: _Geometry,
    grad_input: Tensor | None = None,
    grad_offset: Tensor | None = None,
    grad_mask: Tensor | None = None,
    grad_weight: Tensor | None = None,
) -> None:
    """Add to each ``grad_*`` that is given; the sampling is differentiated by autograd, the product explicitly.

    ``weight`` may be None if only ``grad_weight`` is wanted.
    """
    pairs = [(grad_input, input), (grad_offset, offset), (grad_mask, mask)]
    wanted = [(grad, value) for grad, value in pairs if grad is not None and value is not None]
    groups = geometry.groups
    matrix = None if weight is None else _weight_matrix(weight, groups)
    with own_dtype(input):
        for image in range(input.size(0)):
            leaves = {id(value): value[image].detach().requires_grad_() for _, value in wanted}
            x, places = (leaves.get(id(value), value[image]) for value in (input, offset))
            factors = None if mask is None else leaves.get(id(mask), mask[image])
            with torch.enable_grad():
                columns = _by_group(_columns(x, places, factors, geometry), geometry)  # [S, L, K * C / S]
            grad = grad_output[image].reshape(groups, grad_output.size(1) // groups, -1)  # [S, O / S, L]
            if grad_weight is not None:
                grad_matrix = grad @ columns.detach().to(grad.dtype)  # [S, O / S, K * C / S]
                grad_weight += _weight_from_matrix(grad_matrix, grad_weight)
            if wanted and matrix is not None:
                grad_columns = (grad.transpose(1, 2) @ matrix.transpose(1, 2)).to(columns.dtype)
                gradients = torch.autograd.grad(columns, list(leaves.values()), grad_columns)
                for (total, _), gradient in zip(wanted, gradients, strict=True):
                    total[image] += gradient


def _weight_matrix(weight: Tensor, groups: int) -> Tensor:
    """[O, C / S, kh, kw] -> [S, K * C / S, O / S], rows in the order of `_by_group`."""
    out, inner = weight.shape[:2]
    return weight.reshape(groups, out // groups, inner, -1).permute(0, 3, 2, 1).reshape(groups, -1, out // groups)


def _weight_from_matrix(matrix: Tensor, like: Tensor) -> Tensor:
    """[S, O / S, K * C / S] -> [O, C / S, kh, kw]."""
    out, inner, *kernel = like.shape
    return matrix.view(out, -1, inner).transpose(1, 2).reshape(out, inner, *kernel)


def _by_group(columns: Tensor, geometry: _Geometry) -> Tensor:
    """[L, K, C] -> [S, L, K * C / S]."""
    places, taps, channels = columns.shape
    columns = columns.view(places, taps, geometry.groups, -1).permute(2, 0, 1, 3)
    return columns.reshape(geometry.groups, places, taps * channels // geometry.groups)


def _columns(input: Tensor, offset: Tensor, mask: Tensor | None, geometry: _Geometry) -> Tensor:
    """Samples of one image, [L, K, C], of input [C, H, W], offset [D*K*2, h, w] and mask [D*K, h, w]."""
    channels, height, width = input.shape
    taps = geometry.kernel[0] * geometry.kernel[1]
    dtype = compute_dtype(input.dtype)
    tables = input.to(dtype).reshape(geometry.deform_groups, -1, height * width).transpose(1, 2)
    shape = (geometry.deform_groups, taps, 2, *offset.shape[1:])
    y, x = (offset.to(dtype).view(shape) + _base_places(offset, geometry, dtype)).unbind(2)  # [D, K, h, w]
    index, weight = fading_corners(y, x, height, width)
    if mask is not None:
        weight = weight * mask.to(dtype).view(y.shape)[..., None]
    # places before taps: [D, K, h, w, 4] -> [D, L * K, 4]
    index, weight = (t.permute(0, 2, 3, 1, 4).reshape(geometry.deform_groups, -1, 4) for t in (index, weight))
    parts = [WeightedRows.apply(*part) for part in zip(tables, index, weight, strict=True)]
    return torch.cat(parts, 1).view(-1, taps, channels)


def _base_places(offset: Tensor, geometry: _Geometry, dtype: torch.dtype) -> Tensor:
    """Positions (y, x) of the taps without offset, in input pixels, [K, 2, h, w]."""
    axes = []
    for axis in (0, 1):
        first = torch.arange(offset.size(1 + axis), device=offset.device, dtype=dtype) * geometry.stride[axis]
        tap = torch.arange(geometry.kernel[axis], device=offset.device, dtype=dtype) * geometry.dilation[axis]
        axes.append(tap[:, None] + first - geometry.padding[axis])  # [k, places]
    (rows, height), (columns, width) = axes[0].shape, axes[1].shape
    y = axes[0][:, None, :, None].expand(rows, columns, height, width)
    x = axes[1][None, :, None, :].expand(rows, columns, height, width)
    return torch.stack([y, x], 2).view(-1, 2, height, width)
