"""Residual blocks of a ResNet in one autograd function: fewer passes over the maps, in channels_last on a CPU.

Forward, oneDNN applies the ReLU, or adds the shortcut, while it writes the convolution's output. Backward, a ReLU masks the
gradient where it lies, and the gradient through the branch is added to the shortcut's by the product that computes it.
"""

from __future__ import annotations

from functools import cache

import torch
from mmdet.models.backbones import resnet, resnext
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fcos_train.models.fast.cpu_conv import (
    POINTWISE,
    Geometry,
    by_input,
    by_weight,
    has_hooks,
    is_quick_map,
    spread,
    thinned,
)
from fcos_train.models.fast.fold_bn import FoldedBatchNorm2d, FoldedConv2d

PIECE = 2**18  # float32 numbers that stay in a core's cache
# oneDNN's ReLU makes 0 of NaN, and a broken weight would go unnoticed; its leaky ReLU keeps NaN. A slope that no sum shows.
SLOPE = 1e-30


def _weight(conv: FoldedConv2d, dtype: torch.dtype) -> Tensor:
    """Weight times the scale of the norm, rounded once; without a float32 tensor of this size, whose memory is slow."""
    if conv.constant_weight is not None:
        return conv.constant_weight.to(dtype)
    weight, scale = conv.weight.detach(), conv.folded_scale
    rounded = torch.empty_like(weight, dtype=dtype)
    rows = max(1, PIECE // weight[0].numel())
    piece = torch.empty_like(weight[:rows])
    for source, factor, target in zip(weight.split(rows), scale.split(rows), rounded.split(rows), strict=True):
        target.copy_(torch.mul(source, factor, out=piece[: len(source)]))
    return rounded


def _convolve(x: Tensor, weight: Tensor, bias: Tensor, where: Geometry, relu: bool) -> Tensor:
    unary = ("leaky_relu", [SLOPE], "") if relu else ("none", [], "")
    return torch.ops.mkldnn._convolution_pointwise(
        x, weight, bias, where.padding, where.stride, where.dilation, where.groups, *unary
    )


def _convolve_onto(shortcut: Tensor, own: bool, x: Tensor, weight: Tensor, bias: Tensor, where: Geometry) -> Tensor:
    """relu(convolution + shortcut), in the memory of the shortcut where that is our ``own``."""
    rest = (weight, bias, where.padding, where.stride, where.dilation, where.groups, "add", 1.0, None, [], "")
    if own:
        return torch.ops.mkldnn._convolution_pointwise_.binary(shortcut, x, *rest).relu_()
    return torch.ops.mkldnn._convolution_pointwise.binary(x, shortcut, *rest).relu_()


def _mask(grad: Tensor, y: Tensor) -> Tensor:
    """The gradient before a ReLU whose output is ``y``, in the memory of ``grad``."""
    return torch.ops.aten.threshold_backward.grad_input(grad, y, 0, grad_input=grad)


class _Block(torch.autograd.Function):
    """relu(branch(x) + shortcut(x)) with a ReLU between the convolutions of the branch.

    ``convs``: those of the branch in their order, then that of the shortcut or None. ``weights``: their parameters, here so
    that autograd knows them.
    """

    @staticmethod
    def forward(ctx, x: Tensor, convs: list[FoldedConv2d | None], *weights: Tensor) -> Tensor:
        present = [conv for conv in convs if conv is not None]
        where = [Geometry.of(conv) for conv in present]
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
    def backward(ctx, grad: Tensor):
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
    """Whether oneDNN has these convolutions for the type on this processor; for bf16 AVX-512 or newer is needed."""
    return torch.backends.mkldnn.is_available() and (
        dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def _common_stride(present: list[FoldedConv2d], last: int) -> int:
    """Of the 1x1 convolutions that read the input of the block, where these are all that reads it; else 1."""
    readers = [present[0], *present[last + 1 :]]
    pointwise = all(conv.kernel_size == (1, 1) and Geometry.of(conv)[1:] == POINTWISE[1:] for conv in readers)
    strides = {stride for conv in readers for stride in conv.stride}
    return strides.pop() if pointwise and len(readers) == 2 and len(strides) == 1 else 1


class QuickBlock:
    """A residual block that runs as one function where it can; made by :func:`quick_blocks`.

    Attributes:
        origin: mmdet's class, whose parameters and results it has.
    """

    origin: type

    def forward(self, x: Tensor) -> Tensor:
        convs = self._convs() if is_quick_map(x) and _is_fused(x.dtype) else None
        if convs is None:
            return super().forward(x)
        return _Block.apply(x, convs, *(None if conv is None else conv.weight for conv in convs))

    def _convs(self) -> list[FoldedConv2d | None] | None:
        """The convolutions of branch and shortcut, or None where something else than they and ReLUs is to be run."""
        if self.with_cp or getattr(self, "with_plugins", False) or type(self.relu) is not nn.ReLU:
            return None
        convs = [getattr(self, name) for name in ("conv1", "conv2", "conv3") if hasattr(self, name)]
        down = self.downsample
        if down is not None:
            if [type(layer) for layer in down] != [FoldedConv2d, FoldedBatchNorm2d]:
                return None
            down = down[0]
        present = [*convs, down] if down is not None else convs
        plain = all(
            type(conv) is FoldedConv2d and conv.is_active and conv.padding_mode == "zeros" and conv.bias is None
            for conv in present
        )
        return [*convs, down] if plain and not has_hooks(self) else None


class QuickBasicBlock(QuickBlock, resnet.BasicBlock):
    origin = resnet.BasicBlock


class QuickBottleneck(QuickBlock, resnet.Bottleneck):
    origin = resnet.Bottleneck


class QuickResNeXtBottleneck(QuickBlock, resnext.Bottleneck):
    origin = resnext.Bottleneck


QUICK = {kind.origin: kind for kind in (QuickBasicBlock, QuickBottleneck, QuickResNeXtBottleneck)}


def quick_blocks(model: nn.Module) -> int:
    """Turn every residual block of ``model`` into a :class:`QuickBlock`. Returns how many."""
    blocks = [module for module in model.modules() if type(module) in QUICK]
    for block in blocks:
        block.__class__ = QUICK[type(block)]
    return len(blocks)
