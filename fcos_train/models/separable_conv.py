"""A depthwise separable convolution that any layer of mmdet accepts through ``conv_cfg``."""

from __future__ import annotations

from mmengine.registry import MODELS
from torch import Tensor, nn

from mmcv_overrides.errors import UserError


@MODELS.register_module()
class SeparableConv2d(nn.Module):
    """A depthwise kxk convolution, then a pointwise 1x1 one, without anything in between (arXiv 1704.04861, 3.1).

    Arguments are those of ``nn.Conv2d``, whose attributes it has, so that ``conv_cfg=dict(type="SeparableConv2d")``
    makes the towers of a dense head separable. The initial weights keep the variance of their input.

    Raises:
        UserError: ``groups`` other than 1.
    """

    transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if groups != 1:
            raise UserError(f"SeparableConv2d has no groups, got groups={groups}")
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, kernel_size, stride, padding, dilation, groups=in_channels, bias=False
        )
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=bias)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        for name in ("kernel_size", "stride", "padding", "dilation", "output_padding"):
            setattr(self, name, getattr(self.depthwise, name))
        for layer in (self.depthwise, self.pointwise):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
        if bias:
            nn.init.zeros_(self.pointwise.bias)  # type: ignore[arg-type]  # there is one

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, O, h, w]."""
        return self.pointwise(self.depthwise(x))
