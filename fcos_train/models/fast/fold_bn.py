"""Frozen BatchNorm folded into the convolution before it, at forward time.

A frozen norm is y = x * scale + shift with constants, so conv followed by norm is one conv with weight * scale and
bias shift. The parameters, their names and their gradients stay those of the unfolded model; only the pass over the
activations, forward and backward, goes away. (MLPerf's RetinaNet does the same; mmengine's efficient_conv_bn_eval
handles norms with trainable affine parameters, which this module leaves alone.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmcv.cnn import ConvModule
from mmdet.models.backbones import resnet, resnext
from torch import Tensor, nn

from fcos_train.models.fast.cpu_conv import QuickConv2d

FOLDED = ("folded_scale", "folded_bias", "folded_weight")
_BLOCKS = (resnet.BasicBlock, resnet.Bottleneck, resnext.Bottleneck)


class FoldedConv2d(QuickConv2d):
    """A Conv2d that applies the frozen norm behind it; made by :func:`fold_frozen_bn` alone.

    ``folded_scale`` [O, 1, 1, 1] and ``folded_bias`` [O] are constants; ``folded_weight`` too where the convolution
    is frozen, else None. None of them is saved, nor a buffer: an EMA pairs the buffers of the model with those of a copy
    that was made before the folding, by their order.
    """

    @property
    def is_active(self) -> bool:
        """False while the norm is thawed: both layers are themselves then, and the constants are computed anew after."""
        if self._partner[0].is_thawed:
            self.folded_scale = None
            return False
        if self.folded_scale is None:
            self.refresh()
        return True

    def forward(self, x: Tensor) -> Tensor:
        if not self.is_active:
            return super().forward(x)
        constant = self.constant_weight
        return self._conv_forward(
            x, self.weight * self.folded_scale if constant is None else constant, self.folded_bias
        )

    @property
    def constant_weight(self) -> Tensor | None:
        """weight * scale of the norm where the weight is not trained."""
        if self.weight.requires_grad:
            if self.folded_weight is not None:
                self.folded_weight = None  # a hook has unfrozen the weight
            return None
        if self.folded_weight is None:  # and has frozen it again
            self.refresh()
        return self.folded_weight

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute the constants anew, after a change of the norm or of a frozen weight."""
        norm = self._partner[0]
        scale = torch.rsqrt(norm.running_var + norm.eps)
        scale = scale if norm.weight is None else scale * norm.weight
        mean = norm.running_mean if self.bias is None else norm.running_mean - self.bias
        bias = -mean * scale if norm.bias is None else norm.bias - mean * scale
        scale = scale.view(-1, 1, 1, 1)
        weight = None if self.weight.requires_grad else self.weight * scale
        for name, value in (("scale", scale), ("bias", bias), ("weight", weight)):
            setattr(self, f"folded_{name}", value)

    def _apply(self, fn, recurse: bool = True):
        for name in FOLDED:
            value = getattr(self, name)
            setattr(self, name, None if value is None else fn(value))
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.refresh()


class FoldedBatchNorm2d(nn.BatchNorm2d):
    """The norm of a :class:`FoldedConv2d`: nothing is left to do while it is frozen."""

    @property
    def is_thawed(self) -> bool:
        """Somebody collects statistics, or has unfrozen a parameter."""
        return self.training or (self.affine and (self.weight.requires_grad or self.bias.requires_grad))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.is_thawed else x

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._partner[0].refresh()


def fold_frozen_bn(model: nn.Module) -> list[str]:
    """Fold every BatchNorm2d without trainable parameters into the Conv2d that feeds it.

    Covers ResNet and ResNeXt (stem, blocks, downsampling), ConvModule and plain Sequential. A norm works as folded
    only while it is in evaluation mode (``norm_eval=True``). The state_dict, checkpoints loaded later, ``.to()``
    and ``copy.deepcopy`` work as before, and so does a change of ``requires_grad``: an unfrozen norm is itself again.

    Returns:
        names of the convolutions that were folded; those of an earlier call are refreshed and not named.
    """
    names = {module: name for name, module in model.named_modules()}
    pairs = list(_pairs(model))
    uses = Counter(conv for conv, _ in pairs)
    folded = []
    for conv, norm in pairs:
        if type(conv) is FoldedConv2d:
            conv.refresh()
        elif uses[conv] == 1 and _is_foldable(conv, norm):
            conv.__class__, norm.__class__ = FoldedConv2d, FoldedBatchNorm2d
            conv._partner, norm._partner = (norm,), (conv,)  # in tuples, so that neither becomes a submodule
            conv.refresh()
            folded.append(names[conv])
    return folded


def unfold_frozen_bn(model: nn.Module) -> None:
    """Give every folded layer its own work back."""
    for module in model.modules():
        if type(module) is FoldedConv2d:
            for name in FOLDED:
                delattr(module, name)
            module.__class__ = nn.Conv2d
            del module._partner
        elif type(module) is FoldedBatchNorm2d:
            module.__class__ = nn.BatchNorm2d
            del module._partner


@contextmanager
def folded_frozen_bn(model: nn.Module) -> Iterator[list[str]]:
    """:func:`fold_frozen_bn` within a with-block."""
    try:
        yield fold_frozen_bn(model)
    finally:
        unfold_frozen_bn(model)


def _is_foldable(conv: nn.Module, norm: nn.Module) -> bool:
    return (
        type(conv) is nn.Conv2d
        and type(norm) is nn.BatchNorm2d
        and norm.running_var is not None
        and norm.num_features == conv.out_channels
        and not any(parameter.requires_grad for parameter in norm.parameters())
    )


def _pairs(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Convolutions with the norm that alone consumes their output."""
    for module in model.modules():
        if getattr(module, "origin", type(module)) in _BLOCKS:
            for index in (1, 2, 3):
                if hasattr(module, f"conv{index}"):
                    yield (
                        getattr(module, f"conv{index}"),
                        getattr(module, getattr(module, f"norm{index}_name")),
                    )
        elif isinstance(module, resnet.ResNet) and hasattr(module, "conv1"):
            yield module.conv1, module.norm1
        elif isinstance(module, ConvModule) and module.with_norm and module.order[:2] == ("conv", "norm"):
            yield module.conv, module.norm
        elif type(module) is nn.Sequential or isinstance(module, resnet.ResLayer):
            layers = list(module)
            yield from zip(layers, layers[1:], strict=False)
