"""EfficientNet in the form that edge devices run: without squeeze-and-excitation, with ReLU and symmetric padding."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

from mmdet.models.backbones import EfficientNet
from mmdet.registry import MODELS
from mmengine.model import initialize

SE_RATIO = 2  # column of mmdet's table of layers
# The derivative of a depthwise convolution's fan-out is that of all its groups together, hence the fan-in.
RANDOM = [
    {"type": "Kaiming", "layer": "Conv2d", "mode": "fan_in"},
    {"type": "Constant", "layer": "_BatchNorm", "val": 1},
]


def without_se(settings: list) -> list:
    """A table of ``EfficientNet.layer_settings`` with the ratio of squeeze-and-excitation 0 everywhere."""
    settings = copy.deepcopy(settings)
    for stage in settings:
        for block in stage:
            block[SE_RATIO] = 0
    return settings


@MODELS.register_module()
class PlainEfficientNet(EfficientNet):
    """EfficientNet (arXiv 1905.11946) without squeeze-and-excitation.

    Other defaults than mmdet's ``EfficientNet``: ReLU instead of Swish, the symmetric padding of plain convolutions,
    and the maps of strides 8, 16 and 32. With ``act_cfg=dict(type="ReLU6")`` and
    ``conv_cfg=dict(type="Conv2dAdaptivePadding")`` ``arch="b0"`` computes the features of EfficientNet-Lite0.

    Args:
        arch: ``b0`` to ``b8``. out_indices: stages whose maps are returned; 3, 4, 5 have strides 8, 16, 32.
        others: as in mmdet. ``init_cfg`` is applied to random weights, which keep what it does not replace.
    """

    layer_settings: ClassVar[dict[str, list]] = {"b": without_se(EfficientNet.layer_settings["b"])}

    def __init__(
        self,
        arch: str = "b0",
        out_indices: Sequence[int] = (3, 4, 5),
        conv_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
        **others: Any,
    ) -> None:
        act_cfg = act_cfg or {"type": "ReLU"}
        super().__init__(arch, out_indices=out_indices, conv_cfg=conv_cfg, act_cfg=act_cfg, init_cfg=init_cfg, **others)

    def init_weights(self) -> None:
        """Random weights, then ``init_cfg``."""
        if not self.is_init:
            initialize(self, RANDOM)
        super().init_weights()

    def train(self, mode: bool = True) -> PlainEfficientNet:
        """As in mmdet, but returns the module, as ``nn.Module.train`` does."""
        super().train(mode)
        return self
