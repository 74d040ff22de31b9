"""Input sizes that a neck needs, checked before the first image is read."""

from __future__ import annotations

import math

from mmengine.config import Config, ConfigDict

from fcos_train.config.batch_shapes import COLLATE
from fcos_train.config.load import walk
from mmcv_overrides.errors import UserError

BIFPN = ("BiFPN", "mmdet.BiFPN")


def needed_multiple(model: ConfigDict) -> int:
    """Of which number of px the sides of an input must be multiples: the last stride of a BiFPN; 1 without one."""
    necks = [part for part in walk(model) if part.get("type") in BIFPN]
    return math.lcm(*(neck.get("stride", 8) * 2 ** (neck.get("num_outs", 5) - 1) for neck in necks))


def check_input_sizes(cfg: Config) -> None:
    """Refuse batches whose sides do not fit the neck.

    Raises:
        UserError: ``pad_size_divisor`` or a shape of the training batches is no multiple of what the neck needs.
    """
    needed = needed_multiple(cfg.model)
    divisor = (cfg.model.get("data_preprocessor") or {}).get("pad_size_divisor", 1)
    if divisor % needed:
        raise UserError(
            f"model.data_preprocessor.pad_size_divisor={divisor}: BiFPN needs inputs whose sides are multiples of "
            f"{needed} px; set it to {needed}"
        )
    collate = (cfg.get("train_dataloader") or {}).get("collate_fn") or {}
    shapes = (collate.get("shapes") or ()) if collate.get("type") == COLLATE else ()
    wrong = [f"{rows}x{columns}" for rows, columns in shapes if rows % needed or columns % needed]
    if wrong:
        raise UserError(
            f"train_dataloader.collate_fn.shapes: {', '.join(wrong)} (rows x columns): BiFPN needs inputs whose sides "
            f"are multiples of {needed} px"
        )
