"""The bidirectional feature pyramid of EfficientDet (arXiv 1911.09070), with plain sums instead of learned weights.

Shape symbols: B images, C channels, L levels; level l has stride ``stride * 2**l``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmcv_overrides.errors import UserError

RELU_CONV_NORM = ("act", "conv", "norm")


class BiFPNLayer(nn.Module):
    """One pass from the top level down, and one from the bottom level up.

    Args:
        channels: C. levels: L. norm_cfg, act_cfg: of the convolution after each sum.
    """

    def __init__(self, channels: int, levels: int, norm_cfg: dict, act_cfg: dict) -> None:
        super().__init__()

        def fusions() -> nn.ModuleList:
            options: dict[str, Any] = dict(conv_cfg=dict(type="SeparableConv2d"), norm_cfg=norm_cfg, act_cfg=act_cfg)
            return nn.ModuleList(
                ConvModule(channels, channels, 3, padding=1, order=RELU_CONV_NORM, inplace=False, **options)
                for _ in range(levels - 1)
            )

        self.top_down, self.bottom_up = fusions(), fusions()

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps [B, C, H_l, W_l] of L levels -> the same shapes."""
        down = [maps[-1]]
        for own, fuse in zip(reversed(maps[:-1]), reversed(self.top_down), strict=True):
            down.insert(0, fuse(own + F.interpolate(down[0], scale_factor=2.0, mode="nearest")))
        up = [down[0]]
        for level, fuse in enumerate(self.bottom_up, 1):
            total = maps[level] + halved(up[-1])
            up.append(fuse(total if level == len(maps) - 1 else total + down[level]))
        return up


@MODELS.register_module()
class BiFPN(BaseModule):
    """Brings the maps of a backbone to one width, adds levels above them and fuses them in ``num_repeats`` layers.

    The levels are upsampled by exactly 2, which every runtime has. So the sides of an input must be multiples of the
    stride of the last level: 128 px for five levels from stride 8.

    Args:
        in_channels: channels of each map of the backbone.
        out_channels: C.
        num_repeats: number of :class:`BiFPNLayer`.
        num_outs: L. Levels above the backbone's are max-pooled, the first of them after a 1x1 convolution.
        stride: of the first map, in px.
        norm_cfg, act_cfg: of all layers.
        init_cfg: as in mmengine.

    Raises:
        UserError: fewer levels than maps; in ``forward``, maps of an input whose sides are no such multiples.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_repeats: int,
        num_outs: int = 5,
        stride: int = 8,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if num_outs < len(in_channels):
            raise UserError(f"neck.num_outs={num_outs} is fewer than the {len(in_channels)} maps of the backbone")
        norm_cfg, act_cfg = norm_cfg or {"type": "BN"}, act_cfg or {"type": "ReLU"}
        self.divisor = stride * 2 ** (num_outs - 1)
        self.stride = stride
        more = num_outs - len(in_channels)
        inputs = [*in_channels, in_channels[-1]] if more else in_channels
        self.lateral_convs = nn.ModuleList(
            ConvModule(width, out_channels, 1, norm_cfg=norm_cfg, act_cfg=None) for width in inputs
        )
        self.num_pooled = more
        self.layers = nn.ModuleList(BiFPNLayer(out_channels, num_outs, norm_cfg, act_cfg) for _ in range(num_repeats))

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps [B, C_l, H_l, W_l] of the backbone -> [B, C, H_l, W_l] of L levels."""
        self.check_sizes(inputs)
        maps = [conv(x) for conv, x in zip(self.lateral_convs, inputs, strict=False)]
        for level in range(self.num_pooled):
            maps.append(halved(self.lateral_convs[-1](inputs[-1]) if level == 0 else maps[-1]))
        for layer in self.layers:
            maps = layer(maps)
        return tuple(maps)

    def check_sizes(self, inputs: Sequence[Tensor]) -> None:
        """Refuse maps of an image that is no multiple of the last stride, before two sizes fail to add up.

        Raises:
            UserError: the message has the size and the multiple; or a last level with one value per channel in
                training, which has no variance.
        """
        rows, columns = (int(side) for side in inputs[0].shape[-2:])
        multiple = self.divisor // self.stride
        if rows % multiple or columns % multiple:
            raise UserError(
                f"BiFPN needs inputs whose sides are multiples of {self.divisor} px; the map of stride {self.stride} "
                f"is {rows} x {columns}: set model.data_preprocessor.pad_size_divisor={self.divisor}, or give such a "
                "--shape"
            )
        if self.training and len(inputs[0]) * rows * columns == multiple**2:
            raise UserError(
                f"one image of {self.divisor} x {self.divisor} px gives the last level of BiFPN one value per channel, "
                "which BatchNorm cannot normalise in training: use a larger batch size, or larger images"
            )


def halved(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, H / 2, W / 2], the maximum of 3x3 positions."""
    return F.max_pool2d(x, 3, stride=2, padding=1)
