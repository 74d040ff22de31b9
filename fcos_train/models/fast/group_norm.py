"""GroupNorm for channels_last maps, where torch's own kernels are slow.

* CPU, bf16: torch's backward kernel takes 3 to 4 times as long as the same sums written as tensor operations, and so
  does its forward kernel for small maps.
* CUDA: Triton kernels for both passes, fused with the ReLU that follows (:mod:`.group_norm_triton`).
* Everywhere else, and under ``torch.compile``, which generates such kernels itself: torch's own.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.nn import functional as F

from fcos_train.models.fast.cpu_conv import is_quick_map

SLOW_MAPS = range(64, 1024)  # positions at which torch's forward kernel on a CPU uses a slower algorithm
MOST_CHANNELS = 4096  # a program of the Triton kernels holds all channels of a position


class _ChannelsLastGroupNorm(torch.autograd.Function):
    """GroupNorm (arXiv 1803.08494) of channels_last maps on a CPU. The gradient is dx = a dy + b x + c, with a per
    channel and b, c per group. Shape symbols: B images, N positions, C channels, G groups of K channels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        """x [B, C, H, W], weight and bias [C] -> y like x."""
        batch, channels = x.shape[:2]
        if x[0, 0].numel() in SLOW_MAPS:
            y, mean, rstd = _forward(x, weight, bias, groups, eps)
        else:
            y, mean, rstd = torch.native_group_norm(x, weight, bias, batch, channels, x[0, 0].numel(), groups, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.groups = groups
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight and bias."""
        x, weight, mean, rstd = ctx.saved_tensors
        batch, channels, height, width = x.shape
        grad = grad.contiguous(memory_format=torch.channels_last)
        rows, own = (t.permute(0, 2, 3, 1).reshape(batch, height * width, channels) for t in (grad, x))  # [B, N, C]
        split = (batch, ctx.groups, -1)
        # summed in float32 and rounded once, like the gradient of a weight; converting to float32 would copy the maps
        sums = rows.sum(1).float().view(split)  # [B, G, K]
        scratch = rows * own
        products = scratch.sum(1).float().view(split)
        mean, rstd = mean.float().unsqueeze(2), rstd.float().unsqueeze(2)  # [B, G, 1]
        scale = weight.float().view(1, ctx.groups, -1)
        weighted = (sums * scale).sum(2, keepdim=True)
        by_x = (weighted * mean - (products * scale).sum(2, keepdim=True)) * rstd**3
        by_x = by_x / (height * width * channels // ctx.groups)
        by_one = -by_x * mean - weighted * rstd / (height * width * channels // ctx.groups)
        a, b, c = (t.expand(batch, ctx.groups, channels // ctx.groups).reshape(batch, 1, channels).to(x.dtype)
                   for t in (scale * rstd, by_x, by_one))  # fmt: skip
        by_input = torch.addcmul(c, own, b, out=scratch).addcmul_(rows, a)
        by_weight = ((products - mean * sums) * rstd).sum(0).flatten()
        by_input = by_input.view(batch, height, width, channels).permute(0, 3, 1, 2)
        return by_input, by_weight.to(weight.dtype), sums.sum(0).flatten().to(weight.dtype), None, None


def _forward(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """As ``torch.native_group_norm``: y like x, mean and 1 / deviation [B, G]."""
    batch, channels, height, width = x.shape
    wide = x.permute(0, 2, 3, 1).reshape(batch, height * width, channels).float()
    size = height * width * channels // groups
    mean, square = (part.sum(1).view(batch, groups, -1).sum(2) / size for part in (wide, wide * wide))
    rstd = torch.rsqrt(torch.addcmul(square, mean, mean, value=-1).clamp_(min=0) + eps)
    scale = rstd.unsqueeze(2) * weight.float().view(groups, -1)  # [B, G, K]
    shift = torch.addcmul(bias.float().view(groups, -1), mean.unsqueeze(2), scale, value=-1)
    wide = wide.mul_(scale.view(batch, 1, channels)).add_(shift.view(batch, 1, channels))
    y = torch.empty_like(x)  # autograd.Function must not return a view here
    y.permute(0, 2, 3, 1).copy_(wide.view(batch, height, width, channels))
    return y, mean, rstd


class QuickGroupNorm(nn.GroupNorm):
    """The same layer as ``nn.GroupNorm``; created by :func:`quick_group_norm`."""

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        """x [B, C, H, W] -> the norm of x, followed by ReLU with ``relu=True``."""
        if self._is_for_triton(x):
            from fcos_train.models.fast.group_norm_triton import group_norm

            return group_norm(x, self.weight, self.bias, self.num_groups, self.eps, relu)
        if self.affine and x.dtype == torch.bfloat16 and is_quick_map(x):
            y = _ChannelsLastGroupNorm.apply(x, self.weight, self.bias, self.num_groups, self.eps)
        else:
            y = super().forward(x)
        return F.relu(y, inplace=True) if relu else y

    def _is_for_triton(self, x: Tensor) -> bool:
        return (
            x.is_cuda
            and self.affine
            and x.dim() == 4
            and x.is_contiguous(memory_format=torch.channels_last)
            and x.dtype in (torch.float32, torch.bfloat16, torch.float16)
            and x.shape[1] <= MOST_CHANNELS
            and not torch.compiler.is_compiling()
            and x.device.index == torch.cuda.current_device()
            and triton_fault() is None
        )


class ConvGroupNormReLU(ConvModule):
    """A ConvModule whose norm also applies the activation; created by :func:`quick_group_norm`."""

    def forward(self, x: Tensor, activate: bool = True, norm: bool = True) -> Tensor:
        """[B, C, H, W] -> [B, O, h, w], as ConvModule."""
        if activate and norm:
            return self.norm(self.conv(x), relu=True)
        return super().forward(x, activate, norm)


@cache
def triton_fault() -> str | None:
    """Why the Triton kernels cannot run on the current CUDA device; None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if not torch.cuda.is_available():
        return "no CUDA device"
    major, minor = torch.cuda.get_device_capability()
    return None if major >= 8 else f"compute capability {major}.{minor}; Triton supports 8.0 and newer"


def quick_group_norm(model: nn.Module) -> int:
    """Turn every ``nn.GroupNorm`` of ``model`` into a :class:`QuickGroupNorm`, fused with the ReLU that follows it in a
    ConvModule. Parameters keep their names. Returns the number of norms."""
    layers = [module for module in model.modules() if type(module) is nn.GroupNorm]
    for layer in layers:
        layer.__class__ = QuickGroupNorm
    for module in model.modules():
        if type(module) is ConvModule and _ends_with_norm_and_relu(module):
            module.__class__ = ConvGroupNormReLU
    return len(layers)


def _ends_with_norm_and_relu(module: ConvModule) -> bool:
    return (
        module.order == ("conv", "norm", "act")
        and module.with_norm
        and type(module.norm) is QuickGroupNorm
        and module.with_activation
        and type(module.activate) is nn.ReLU
        and not module.with_explicit_padding
    )
