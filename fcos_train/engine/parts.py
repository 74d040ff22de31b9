"""The modules whose import makes this project's parts known to the registries of mmengine and mmdet."""

from __future__ import annotations

from importlib import import_module

MODULES = (
    "fcos_train.data.dataset",
    "fcos_train.data.loading",
    "fcos_train.data.batch",
    "fcos_train.evaluation",
    "fcos_train.models",
    "fcos_train.engine.static",
    "mmcv_overrides.guard",
)


def register_parts() -> None:
    """Import them; a second call does nothing."""
    for name in MODULES:
        import_module(name)
