"""A dense head with BatchNorm per level, made of mmdet's own heads: one for each level, with a BatchNorm of its own."""

import copy
import re

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from tests.support.heads import fcos_pair, fsaf_pair

BN = {"type": "BN", "requires_grad": True}
PAIRS = {"fcos": fcos_pair, "fsaf": fsaf_pair}


def norms_of(module):
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


def scattered(module, seed=7):
    """Running statistics and affine parameters that differ in every norm."""
    generator = torch.Generator().manual_seed(seed)
    for norm in norms_of(module):
        with torch.no_grad():
            if norm.affine:
                norm.weight.copy_(1 + 0.3 * torch.rand(norm.weight.shape, generator=generator))
                norm.bias.copy_(0.2 * torch.randn(norm.bias.shape, generator=generator))
            if norm.running_mean is not None:
                norm.running_mean.copy_(0.3 * torch.randn(norm.running_mean.shape, generator=generator))
                norm.running_var.copy_(0.5 + torch.rand(norm.running_var.shape, generator=generator))
    return module


class PerLevel(nn.Module):
    """mmdet's head copied for each level; all but the norms is one and the same."""

    def __init__(self, stock, levels=5, affine=None):
        super().__init__()
        self.heads = nn.ModuleList(copy.deepcopy(stock) for _ in range(levels))
        own = dict(self.heads[0].named_parameters())
        for head in self.heads[1:]:
            for name, _ in list(head.named_parameters()):
                if ".bn." not in name or affine == "shared":
                    place, _, leaf = name.rpartition(".")
                    setattr(head.get_submodule(place), leaf, own[name])

    def forward(self, x):
        first = self.heads[0]
        rest = zip(first.scales, first.strides, strict=True) if hasattr(first, "scales") else [()] * len(x)
        each = [head.forward_single(level, *more) for head, level, more in zip(self.heads, x, rest, strict=True)]
        return tuple(map(list, zip(*each, strict=True)))

    def loss_by_feat(self, *args):
        return self.heads[0].loss_by_feat(*args)

    def named(self, values):
        """(name as in a head with norms per level, value) of ``named_parameters`` or ``named_buffers`` here."""
        return {
            re.sub(r"^heads\.(\d)\.(.*)\.bn\.", r"\2.bn.\1.", name).removeprefix("heads.0."): value
            for name, value in values
        }


def level_pair(kind="fcos", shared_affine=False, norm=BN, stacked_convs=2, **options):
    """Our fixed-shape head and :class:`PerLevel`, with the same lively weights and running statistics."""
    affine = {"type": "LevelBN", "shared_affine": True} if shared_affine else {}
    _, stock = PAIRS[kind](norm_cfg=norm, stacked_convs=stacked_convs, **options)
    reference = scattered(PerLevel(stock, affine="shared" if shared_affine else None))
    ours = _built(kind, {**norm, **affine}, stacked_convs, options)
    values = {**reference.named(reference.named_parameters()), **reference.named(reference.named_buffers())}
    missing, unexpected = ours.load_state_dict(values, strict=False)
    assert not missing and not [name for name in unexpected if not name.startswith("heads.")], (missing, unexpected)
    return ours, reference


def _built(kind, norm, stacked_convs, options):
    """Our head of a pair; the mmdet head beside it cannot have this norm."""
    from unittest import mock

    from tests.support import heads

    with mock.patch.object(heads, "_pair", lambda ours, theirs, arguments: ours(**arguments)):
        return PAIRS[kind](norm_cfg=norm, stacked_convs=stacked_convs, **options)
