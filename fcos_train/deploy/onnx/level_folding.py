"""Norms per level folded into the convolutions before them, one convolution for each level."""

from __future__ import annotations

import copy

from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from fcos_train.models.level_norm import HasLevelNorms, LevelNorm


class LevelConv(nn.ModuleList):
    """The convolution of each level; ``level`` says whose map comes next, as in :class:`LevelNorm`."""

    level = 0

    def forward(self, x: Tensor) -> Tensor:
        return self[self.level](x)


def with_folded_norms(head: nn.Module) -> nn.Module:
    """A copy of a dense head, in evaluation mode, without norms per level; the head itself where there are none.

    Norms that are not directly behind a convolution or have no running statistics stay.
    """
    if not isinstance(head, HasLevelNorms) or not head.by_level:
        return head
    head = copy.deepcopy(head).eval()
    for layer in list(head.modules()):
        if isinstance(layer, ConvModule) and layer.with_norm and _is_foldable(layer):
            norm = layer.norm
            layer.conv = LevelConv(_folded(layer.conv, norm, level) for level in range(len(norm)))
            delattr(layer, layer.norm_name)
            layer.with_norm, layer.norm_name = False, None
    head.by_level = tuple(module for module in head.modules() if isinstance(module, (LevelNorm, LevelConv)))
    return head


def _is_foldable(layer: ConvModule) -> bool:
    return (
        isinstance(layer.norm, LevelNorm)
        and layer.order[:2] == ("conv", "norm")
        and not layer.with_spectral_norm
        and layer.norm[0].running_mean is not None
    )


def _folded(conv: nn.Module, norm: LevelNorm, level: int) -> nn.Module:
    """A copy of the convolution that does what it and the norm of this level did. Ioffe and Szegedy, arXiv 1502.03167, 3.2."""
    own, conv = norm[level], copy.deepcopy(conv)
    affine = norm.affine_of(level)
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, own.running_mean, own.running_var, own.eps, *affine
    )
    return conv
