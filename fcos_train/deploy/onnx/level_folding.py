"""Folds norms per level into the convolutions before them: one convolution per level."""

from __future__ import annotations

import copy
from typing import Any

from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from fcos_train.models.level_norm import HasLevelNorms, LevelNorm
from fcos_train.models.separable_conv import SeparableConv2d

Convolution = nn.Conv2d | SeparableConv2d


class LevelConv(nn.ModuleList):
    """One convolution per level; ``level`` selects the one of the next map, as in :class:`LevelNorm`."""

    level = 0

    def forward(self, x: Tensor) -> Tensor:
        """Convolve the map [B, C, H, W] of the selected level."""
        return self[self.level](x)


def with_folded_norms(head: nn.Module) -> nn.Module:
    """Fold the norms per level of a dense head.

    Norms that do not directly follow a convolution or have no running statistics are kept.

    Returns:
        a copy in evaluation mode, or the head itself if it has no norms per level.
    """
    if not isinstance(head, HasLevelNorms) or not head.by_level:
        return head
    folded: Any = copy.deepcopy(head).eval()
    for layer in list(folded.modules()):
        if isinstance(layer, ConvModule) and layer.with_norm and _is_foldable(layer):
            norm = layer.norm
            layer.conv = LevelConv(_folded(layer.conv, norm, level) for level in range(len(norm)))
            delattr(layer, layer.norm_name)
            layer.with_norm, layer.norm_name = False, None
    folded.by_level = tuple(module for module in folded.modules() if isinstance(module, (LevelNorm, LevelConv)))
    return folded


def _is_foldable(layer: ConvModule) -> bool:
    return (
        isinstance(layer.norm, LevelNorm)
        and layer.order[:2] == ("conv", "norm")
        and not layer.with_spectral_norm
        and layer.norm[0].running_mean is not None
    )


def _folded(conv: Convolution, norm: LevelNorm, level: int) -> Convolution:
    """A copy of the convolution that includes the norm of this level (https://arxiv.org/abs/1502.03167, 3.2)."""
    own: Any = norm[level]
    conv = copy.deepcopy(conv)
    last = conv.pointwise if isinstance(conv, SeparableConv2d) else conv
    affine = norm.affine_of(level)
    last.weight, last.bias = fuse_conv_bn_weights(
        last.weight, last.bias, own.running_mean, own.running_var, own.eps, *affine
    )
    return conv
