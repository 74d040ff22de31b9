"""Residual blocks of a ResNet as one autograd function: fewer passes over channels_last maps on a CPU.

In the forward pass oneDNN applies the ReLU, or adds the shortcut, while it writes the output of a convolution. In the
backward pass a ReLU masks the gradient in place, and the product that computes the gradient through the branch adds it
to that of the shortcut.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import torch
from mmdet.models.backbones import resnet, resnext
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fcos_train.models.fast.cpu_conv import (
    POINTWISE,
    ConvParams,
    by_input,
    by_weight,
    has_hooks,
    is_quick_map,
    spread,
    thinned,
)
from fcos_train.models.fast.fold_bn import FoldedBatchNorm2d, FoldedConv2d

PIECE = 2**18  # float32 values that fit into the cache of a core
# oneDNN's ReLU turns NaN into 0, which would hide a broken weight; its leaky ReLU keeps NaN. The negative slope is far
# below fp32 resolution, so the result equals ReLU.
SLOPE = 1e-30


def _weight(conv: FoldedConv2d, dtype: torch.dtype) -> Tensor:
    """weight * scale of the norm in ``dtype``, rounded once; in pieces, because a whole float32 copy would be slow."""
    constant, scale = conv.constant_weight, conv.folded_scale
    if constant is not None:
        return constant.to(dtype)
    assert scale is not None  # the layer is active
    weight = conv.weight.detach()
    rounded = torch.empty_like(weight, dtype=dtype)
    rows = max(1, PIECE // weight[0].numel())
    piece = torch.empty_like(weight[:rows])
    for source, factor, target in zip(weight.split(rows), scale.split(rows), rounded.split(rows), strict=True):
        target.copy_(torch.mul(source, factor, out=piece[: len(source)]))
    return rounded


def _convolve(x: Tensor, weight: Tensor, bias: Tensor, where: ConvParams, relu: bool) -> Tensor:
    """convolution(x) + bias, then ReLU if asked for."""
    unary: tuple[str, list[float], str] = ("leaky_relu", [SLOPE], "") if relu else ("none", [], "")
    return torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, where.padding, where.stride, where.dilation, where.groups, *unary
    )


def _convolve_onto(shortcut: Tensor, own: bool, x: Tensor, weight: Tensor, bias: Tensor, where: ConvParams) -> Tensor:
    """relu(convolution(x) + bias + shortcut), in the memory of the shortcut if the block owns it (``own``)."""
    rest: tuple[Any, ...] = (
        weight,
        bias,
        where.padding,
        where.stride,
        where.dilation,
        where.groups,
        "add",
        1.0,
        None,
        [],
        "",
    )
    if own:
        return torch.ops.mkldnn._convolution_pointwise_.binary(shortcut, x, *rest).relu_()
    return torch.ops.mkldnn._convolution_pointwise.binary(x, shortcut, *rest).relu_()


def _mask(grad: Tensor, y: Tensor) -> Tensor:
    """The gradient of the input of a ReLU with output ``y``, in the memory of ``grad``."""
    return torch.ops.aten.threshold_backward.grad_input(grad, y, 0, grad_input=grad)


class _Block(torch.autograd.Function):
    """relu(branch(x) + shortcut(x)) with a ReLU between the convolutions of the branch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, convs: list[FoldedConv2d | None], *weights: Tensor) -> Tensor:
        """[B, C, H, W] in channels_last -> [B, O, h, w].

        Args:
            convs: the convolutions of the branch in order, then that of the shortcut, or None.
            weights: their parameters, passed so that autograd tracks them.
        """
        present = [conv for conv in convs if conv is not None]
        where = [ConvParams.of(conv) for conv in present]
        casts = [_weight(conv, x.dtype) for conv in present]
        biases = [conv.folded_bias.to(x.dtype) for conv in present]
        last, has_down = len(convs) - 2, convs[-1] is not None
        ctx.shape, ctx.thin = x.shape, _common_stride(present, last)
        if ctx.thin > 1:
            x = thinned(x, ctx.thin)
            where[0] = where[-1] = POINTWISE
        maps = [x]
        for index in range(last):
            maps.append(_convolve(maps[-1], casts[index], biases[index], where[index], relu=True))
        shortcut = _convolve(x, casts[-1], biases[-1], where[-1], relu=False) if has_down else x
        out = _convolve_onto(shortcut, has_down, maps[-1], casts[last], biases[last], where[last])
        ctx.save_for_backward(*maps, out, *casts, *(conv.folded_scale for conv in present))
        ctx.where, ctx.last, ctx.has_down = where, last, has_down
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x and of the weights."""
        last, where, saved = ctx.last, ctx.where, ctx.saved_tensors
        maps, out, rest = saved[: last + 1], saved[last + 1], saved[last + 2 :]
        weights, scales = rest[: len(where)], rest[len(where) :]
        by_weights: list[Tensor | None] = [None] * (len(where) + (not ctx.has_down))

        def weigh(index: int, grad: Tensor, x: Tensor) -> None:
            if ctx.needs_input_grad[2 + index]:
                by_weights[index] = by_weight(grad, x, weights[index], where[index]).float().mul_(scales[index])

        grad = grad.contiguous(memory_format=torch.channels_last)
        grad = torch.ops.aten.threshold_backward(grad, out, 0)
        inner = grad
        for index in range(last, 0, -1):
            weigh(index, inner, maps[index])
            inner = _mask(by_input(inner, maps[index], weights[index], where[index]), maps[index])
        weigh(0, inner, maps[0])
        if ctx.has_down:
            weigh(last + 1, grad, maps[0])
        by_x = None
        if ctx.needs_input_grad[0]:
            if ctx.has_down:
                grad = by_input(grad, maps[0], weights[-1], where[-1])
            by_x = by_input(inner, maps[0], weights[0], where[0], onto=grad)
            by_x = spread(by_x, ctx.shape, ctx.thin)
        return by_x, None, *by_weights


@cache
def _is_fused(dtype: torch.dtype) -> bool:
    """Whether oneDNN has these convolutions for the dtype on this processor; bf16 needs AVX-512 or newer."""
    return torch.backends.mkldnn.is_available() and (
        dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def _common_stride(present: list[FoldedConv2d], last: int) -> int:
    """The stride of the 1x1 convolutions that read the input of the block; 1 if anything else reads it too."""
    readers = [present[0], *present[last + 1 :]]
    pointwise = all(conv.kernel_size == (1, 1) and ConvParams.of(conv)[1:] == POINTWISE[1:] for conv in readers)
    strides = {stride for conv in readers for stride in conv.stride}
    return strides.pop() if pointwise and len(readers) == 2 and len(strides) == 1 else 1


class QuickBlock(BaseModule):
    """A residual block that runs as one function if possible; created by :func:`quick_blocks`.

    Attributes:
        origin: mmdet's class with the same parameters and results.
    """

    origin: type

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, O, h, w], as the block of mmdet."""
        convs = self._convs() if is_quick_map(x) and _is_fused(x.dtype) else None
        if convs is None:
            return super().forward(x)
        return _Block.apply(x, convs, *(None if conv is None else conv.weight for conv in convs))

    def _convs(self) -> list[FoldedConv2d | None] | None:
        """The convolutions of branch and shortcut; None if the block consists of more than these and ReLUs."""
        if self.with_cp or getattr(self, "with_plugins", False) or type(self.relu) is not nn.ReLU:
            return None
        convs = [getattr(self, name) for name in ("conv1", "conv2", "conv3") if hasattr(self, name)]
        down = self.downsample
        if down is not None:
            if len(down) != 2 or not isinstance(down[0], FoldedConv2d) or not isinstance(down[1], FoldedBatchNorm2d):
                return None
            down = down[0]
        present = [*convs, down] if down is not None else convs
        plain = all(
            isinstance(conv, FoldedConv2d) and conv.is_active and conv.padding_mode == "zeros" and conv.bias is None
            for conv in present
        )
        return [*convs, down] if plain and not has_hooks(self) else None


class QuickBasicBlock(QuickBlock, resnet.BasicBlock):
    """The block of ResNet-18 and ResNet-34."""

    origin = resnet.BasicBlock


class QuickBottleneck(QuickBlock, resnet.Bottleneck):
    """The block of ResNet-50 and deeper."""

    origin = resnet.Bottleneck


class QuickResNeXtBottleneck(QuickBlock, resnext.Bottleneck):
    """The block of ResNeXt."""

    origin = resnext.Bottleneck


QUICK: dict[type, type[QuickBlock]] = {
    kind.origin: kind for kind in (QuickBasicBlock, QuickBottleneck, QuickResNeXtBottleneck)
}


def quick_blocks(model: nn.Module) -> int:
    """Turn every residual block of ``model`` into a :class:`QuickBlock`. Returns their number."""
    blocks = [module for module in model.modules() if type(module) in QUICK]
    for block in blocks:
        block.__class__ = QUICK[type(block)]
    return len(blocks)


def other_blocks(model: nn.Module) -> Counter[str]:
    """How many residual blocks :func:`quick_blocks` leaves as they are, by class: subclasses of those it knows."""
    kinds = [type(module) for module in model.modules() if isinstance(module, tuple(QUICK))]
    return Counter(kind.__name__ for kind in kinds if kind not in QUICK and not issubclass(kind, QuickBlock))
