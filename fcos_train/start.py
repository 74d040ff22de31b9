"""Puts the overrides in place and makes every part that a config can name known to the registries."""

from __future__ import annotations

from functools import cache
from importlib import import_module

import mmcv_overrides

# Their import registers parts. Named as text, because this module lies below them.
MODULES = (
    "fcos_train.data.dataset",
    "fcos_train.data.loading",
    "fcos_train.data.batch",
    "fcos_train.data.augment",
    "fcos_train.evaluation",
    "fcos_train.models",
    "fcos_train.engine.fixed_step",
    "fcos_train.engine.val_loss",
    "mmcv_overrides.guard",
)


@cache
def start() -> None:
    """Activate the overrides, then register mmdet's parts and ours. A second call does nothing.

    Raises:
        UserError: the installation cannot be used; the message says how to repair it.
    """
    mmcv_overrides.activate()
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    for name in MODULES:
        import_module(name)
