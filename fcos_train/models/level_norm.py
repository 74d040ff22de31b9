"""BatchNorm with separate statistics per pyramid level, for the towers that the levels of a dense head share.

mmdet shares one BatchNorm layer between the levels. In training it normalises each level with the batch statistics of
that level, but updates a single set of running statistics L times per step, from L different distributions. These fit
no level in evaluation: on the generated shapes such a head trains to the same loss as one with GroupNorm but evaluates
to mAP 0.005. :class:`LevelBN` has one BatchNorm per level, like the FCOS head of AdelaiDet.

Shape symbols: B images, C channels, L levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmengine.logging import print_log
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmcv_overrides.errors import UserError

VALUES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


class LevelNorm(nn.ModuleList):
    """One norm per pyramid level; the head sets the level of the next map in :attr:`level`.

    The keys of the state dict are those of AdelaiDet: ``<layer>.<level>.running_mean`` and so on. An entry without a
    level, as a shared BatchNorm has it, is loaded into every level. A level with a single value per channel in training
    (one image, a map of 1x1) has no variance: its running statistics normalise it and are not updated.

    Args:
        num_features: C.
        num_levels: L. Set by the head; a config need not give it.
        shared_affine: one weight and one bias for all levels (stored in level 0); only the statistics are per level.
        options: options of the layer: eps, momentum, affine, track_running_stats.

    Attributes:
        level: index of the level of the next map. It is state of the module: run one forward pass at a time.
    """

    _abbr_ = "bn"
    layer: type[_BatchNorm]

    def __init__(self, num_features: int, num_levels: int, shared_affine: bool = False, **options: Any) -> None:
        affine = options.pop("affine", True)
        super().__init__(
            self.layer(num_features, affine=affine and (level == 0 or not shared_affine), **options)
            for level in range(num_levels)
        )
        self.shared_affine = shared_affine and affine
        self.level = 0

    @property
    def norms(self) -> list[_BatchNorm]:
        """The norm of each level."""
        return list(self)  # type: ignore[arg-type]  # ModuleList is not generic

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] of level :attr:`level` -> normalised, same shape."""
        norm = self.norms[self.level]
        y = norm(x) if has_batch_statistics(norm, x[:, 0].numel()) else _by_running_statistics(norm, x)
        if not self.shared_affine or self.level == 0:
            return y
        weight, bias = (value.view(1, -1, 1, 1) for value in (self.norms[0].weight, self.norms[0].bias))
        return torch.addcmul(bias, y, weight).to(y.dtype)

    def affine_of(self, level: int) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias [C] that apply to a level; None without affine parameters."""
        owner = self.norms[0 if self.shared_affine else level]
        return owner.weight, owner.bias

    def extra_repr(self) -> str:
        """For ``print(model)``."""
        return "shared affine parameters" if self.shared_affine else ""

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        spread_over_levels(state_dict, prefix, self)
        super()._load_from_state_dict(state_dict, prefix, *args)


@MODELS.register_module()
class LevelBN(LevelNorm):
    """:class:`LevelNorm` of ``nn.BatchNorm2d``."""

    layer = nn.BatchNorm2d


@MODELS.register_module()
class LevelSyncBN(LevelNorm):
    """:class:`LevelNorm` of ``nn.SyncBatchNorm``: the statistics of a level are those of all ranks."""

    layer = nn.SyncBatchNorm


@MODELS.register_module()
class SharedBN(nn.BatchNorm2d):
    """One BatchNorm for all levels, like ``BN`` in a head of mmdet: its running statistics fit no level. Used only if a
    config names it."""

    _abbr_ = "bn"


@MODELS.register_module()
class SharedSyncBN(nn.SyncBatchNorm):
    """:class:`SharedBN` with statistics of all ranks."""

    _abbr_ = "bn"


PER_LEVEL: dict[str, type[LevelNorm]] = {
    "BN": LevelBN,
    "BN2d": LevelBN,
    "SyncBN": LevelSyncBN,
    "LevelBN": LevelBN,
    "LevelSyncBN": LevelSyncBN,
}


def level_norm_of(norm_cfg: Mapping | None) -> type[LevelNorm] | None:
    """The norm per level that a head uses for this ``norm_cfg``; None if that names no BatchNorm, or a shared one."""
    kind = (norm_cfg or {}).get("type")
    if isinstance(kind, type):
        return (
            kind if issubclass(kind, LevelNorm) else {nn.BatchNorm2d: LevelBN, nn.SyncBatchNorm: LevelSyncBN}.get(kind)
        )
    return PER_LEVEL.get(str(kind).rpartition(".")[2])


def has_batch_statistics(norm: _BatchNorm, count: int) -> bool:
    """Whether ``norm`` can normalise ``count`` values per channel in its current mode. A synchronised norm always takes
    part, because the other ranks wait for it."""
    if not norm.training or count > 1 or norm.running_mean is None:
        return True
    return (
        isinstance(norm, nn.SyncBatchNorm)
        and torch.distributed.is_initialized()
        and torch.distributed.get_world_size() > 1
    )


def _by_running_statistics(norm: _BatchNorm, x: Tensor) -> Tensor:
    """``norm(x)`` as in evaluation mode, with its hooks."""
    norm.training = False
    try:
        return norm(x)
    finally:
        norm.training = True


def spread_over_levels(state_dict: dict, prefix: str, norm: LevelNorm) -> bool:
    """Replace the entries of a shared norm, ``<prefix>weight`` and so on, by copies for each level that has no entry.

    Returns:
        whether there were such entries.
    """
    found = [name for name in VALUES if f"{prefix}{name}" in state_dict]
    for name in found:
        value = state_dict.pop(f"{prefix}{name}")
        for level, own in enumerate(norm):
            if getattr(own, name, None) is not None:
                state_dict.setdefault(f"{prefix}{level}.{name}", value)
    return bool(found)


class HasLevelNorms(BaseDenseHead):
    """Mixin for a dense head whose ``forward_single`` runs once per level, in order: makes BatchNorm per level.

    ``norm_cfg`` of type ``BN`` or ``SyncBN`` becomes :class:`LevelBN` or :class:`LevelSyncBN`; ``SharedBN`` and
    ``SharedSyncBN`` remain one layer for all levels, as in mmdet.

    Attributes:
        by_level: layers whose ``level`` is set to the level of the next map.

    Raises:
        UserError: options that the norm does not have, or a number of levels other than that of the head.
    """

    by_level: tuple[Any, ...] = ()
    norm_cfg: Any

    def _init_layers(self) -> None:
        levels, kind = self.prior_generator.num_levels, level_norm_of(self.norm_cfg)
        if kind is not None:
            given = self.norm_cfg.get("num_levels", levels)
            if given != levels:
                raise UserError(
                    f"bbox_head.norm_cfg.num_levels={given}, but the head has {levels} levels: leave it out"
                )
            self.norm_cfg = {**self.norm_cfg, "type": kind, "num_levels": levels}
        try:
            super()._init_layers()
        except TypeError as error:
            if "norm" not in str(error).lower():
                raise
            raise UserError(
                f"bbox_head.norm_cfg: {error}; where it replaces the norm of another config, write "
                "norm_cfg=dict(_delete_=True, type=...)"
            ) from error
        self.by_level = tuple(module for module in self.modules() if isinstance(module, LevelNorm))
        self._next_level = 0

    def forward(self, x: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """As in mmdet. ``x``, [B, C, H, W] of each level, begins with the first level; later levels may be omitted."""
        self._next_level = 0
        return super().forward(x)

    def forward_single(self, x: Tensor, *args: Any) -> tuple[Tensor, ...]:
        """As in mmdet, for the level after that of the previous call."""
        for layer in self.by_level:
            layer.level = self._next_level
        self._next_level += 1
        return super().forward_single(x, *args)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        names = [name for name, module in self.named_modules() if isinstance(module, LevelNorm)]
        shared = [name for name in names if f"{prefix}{name}.running_mean" in state_dict]
        if shared:
            print_log(
                f"{len(shared)} BatchNorm layers of the head ({prefix}{shared[0]} first) are saved as one for all "
                "levels; their values are copied to each level. Their running statistics are a mixture of all levels: "
                "evaluation will be poor until training has estimated them per level",
                logger="current",
                level=30,
            )
        super()._load_from_state_dict(state_dict, prefix, *args)
