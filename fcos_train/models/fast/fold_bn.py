"""Frozen BatchNorm folded into the convolution before it, at forward time.

A frozen norm is y = x * scale + shift with constants, so a convolution followed by such a norm is one convolution with
weight * scale and bias shift. Parameters, their names and their gradients remain those of the unfolded model; only the
pass over the activations, forward and backward, is saved. (MLPerf's RetinaNet does the same; mmengine's
efficient_conv_bn_eval covers norms with trainable affine parameters, which this module leaves alone.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmdet.models.backbones import resnet, resnext
from torch import Tensor, nn

FOLDED = ("folded_scale", "folded_bias", "folded_weight")
# Blocks whose conv<i> feeds norm<i> and nothing else. A subclass may connect them differently, so each class is listed.
BLOCKS = (resnet.BasicBlock, resnet.Bottleneck, resnext.Bottleneck)


class FoldedConv2d(nn.Conv2d):
    """A Conv2d that also applies the frozen norm after it; created by :func:`fold_frozen_bn` only.

    ``folded_scale`` [O, 1, 1, 1] and ``folded_bias`` [O] are constants; so is ``folded_weight`` if the convolution is
    frozen, otherwise it is None. They are neither saved nor buffers, because an EMA pairs the buffers of the model by
    order with those of a copy that was made before the folding.
    """

    folded_scale: Tensor | None
    folded_bias: Tensor
    folded_weight: Tensor | None
    _partner: tuple[FoldedBatchNorm2d]  # in a tuple, so that it does not become a submodule

    @property
    def is_active(self) -> bool:
        """False while the norm is thawed: both layers are unfolded then; later the constants are computed again."""
        if self._partner[0].is_thawed:
            self.folded_scale = None
            return False
        if self.folded_scale is None:
            self.refresh()
        return True

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> norm(conv(x)); only conv(x) while the norm is thawed."""
        if not self.is_active:
            return super().forward(x)
        weight = self.constant_weight
        if weight is None:
            assert self.folded_scale is not None  # the layer is active
            weight = self.weight * self.folded_scale
        return self._conv_forward(x, weight, self.folded_bias)

    @property
    def constant_weight(self) -> Tensor | None:
        """weight * scale of the norm [O, C, k, k] if the weight is not trained, otherwise None."""
        if self.weight.requires_grad:
            if self.folded_weight is not None:
                self.folded_weight = None  # a hook has unfrozen the weight
            return None
        if self.folded_weight is None:  # and has frozen it again
            self.refresh()
        return self.folded_weight

    @torch.no_grad()
    def refresh(self) -> None:
        """Recompute the constants after a change of the norm or of a frozen weight."""
        norm = self._partner[0]
        assert norm.running_mean is not None and norm.running_var is not None  # see _is_foldable
        scale = torch.rsqrt(norm.running_var + norm.eps)
        scale = scale if norm.weight is None else scale * norm.weight
        mean = norm.running_mean if self.bias is None else norm.running_mean - self.bias
        bias = -mean * scale if norm.bias is None else norm.bias - mean * scale
        scale = scale.view(-1, 1, 1, 1)
        weight = None if self.weight.requires_grad else self.weight * scale
        for name, value in (("scale", scale), ("bias", bias), ("weight", weight)):
            setattr(self, f"folded_{name}", value)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FoldedConv2d:
        for name in FOLDED:
            value = getattr(self, name)
            setattr(self, name, None if value is None else fn(value))
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.refresh()


class FoldedBatchNorm2d(nn.BatchNorm2d):
    """The norm of a :class:`FoldedConv2d`: the identity while it is frozen."""

    _partner: tuple[FoldedConv2d]

    @property
    def is_thawed(self) -> bool:
        """Whether the norm is in training mode, or a parameter was unfrozen."""
        return self.training or (self.affine and (self.weight.requires_grad or self.bias.requires_grad))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> x, or norm(x) while the norm is thawed."""
        return super().forward(x) if self.is_thawed else x

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._partner[0].refresh()


def fold_frozen_bn(model: nn.Module) -> list[str]:
    """Fold every BatchNorm2d without trainable parameters into the Conv2d that feeds it.

    Covers ResNet and ResNeXt (stem, blocks, downsampling), ConvModule and plain Sequential; :func:`unfolded_norms`
    counts the rest. A norm is folded only while it is in evaluation mode (``norm_eval=True``). The state_dict,
    checkpoints loaded later, ``.to()`` and ``copy.deepcopy`` work as before, and so does a change of
    ``requires_grad``: a norm that is unfrozen acts as a norm again.

    Returns:
        names of the convolutions that were folded; those folded by an earlier call are refreshed and not named.
    """
    names = {module: name for name, module in model.named_modules()}
    pairs = list(_pairs(model))
    uses = Counter(conv for conv, _ in pairs)
    folded = []
    for conv, norm in pairs:
        if isinstance(conv, FoldedConv2d):
            conv.refresh()
        elif uses[conv] == 1 and _is_foldable(conv, norm):
            _fold(conv, norm)
            folded.append(names[conv])
    return folded


def _fold(conv: Any, norm: Any) -> None:
    conv.__class__, norm.__class__ = FoldedConv2d, FoldedBatchNorm2d
    conv._partner, norm._partner = (norm,), (conv,)
    conv.refresh()


def unfolded_norms(model: nn.Module) -> Counter[str]:
    """How many frozen norms :func:`fold_frozen_bn` left as they are, by the class of the module that has them."""
    modules, found = dict(model.named_modules()), Counter[str]()
    for path, norm in modules.items():
        if type(norm) is nn.BatchNorm2d and norm.affine and not any(p.requires_grad for p in norm.parameters()):
            while path and (isinstance(modules[path], nn.ModuleList) or modules[path] is norm):
                path = path.rpartition(".")[0]
            found[type(modules[path]).__name__] += 1
    return found


def unfold_frozen_bn(model: nn.Module) -> None:
    """Turn every folded layer back into the layer it was."""
    for module in model.modules():
        if isinstance(module, FoldedConv2d):
            _unfold(module, nn.Conv2d, (*FOLDED, "_partner"))
        elif isinstance(module, FoldedBatchNorm2d):
            _unfold(module, nn.BatchNorm2d, ("_partner",))


def _unfold(layer: Any, kind: type[nn.Module], attributes: tuple[str, ...]) -> None:
    for name in attributes:
        delattr(layer, name)
    layer.__class__ = kind


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
    """Pairs of a convolution and the norm that is the only consumer of its output."""
    for module in model.modules():
        if getattr(module, "origin", type(module)) in BLOCKS:
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
