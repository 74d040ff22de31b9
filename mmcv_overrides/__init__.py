"""Stands in for pieces of the mm runtime: operators, devices, parallel, optimizer, checkpoint and timer parts.

``activate()`` puts everything in place once and returns the table of what it replaced. It must run before
``mmcv.ops`` or ``mmdet`` are imported. In a config of one's own, without the trainer of this repository:
``custom_imports = dict(imports=["mmcv_overrides.auto"])``.
"""

from __future__ import annotations

from mmcv_overrides.errors import UserError
from mmcv_overrides.seams import Override, SeamError

__all__ = ["Override", "SeamError", "UserError", "activate", "table"]

_active: list[Override] | None = None
_operators: str = ""


def _overrides() -> list[Override]:
    from mmcv_overrides import (
        checkpoint,
        data_files,
        device,
        loop,
        optimizer,
        parallel,
        precision,
        quiet,
        text_log,
        timer,
    )

    modules = (quiet, device, parallel, precision, optimizer, checkpoint, data_files, loop, timer, text_log)
    return [override for module in modules for override in module.OVERRIDES]


def activate() -> list[Override]:
    """Put the overrides in place (once; later calls return the same list).

    Raises:
        SeamError: a part of mmengine is not as an override assumes; nothing has been patched then.
        UserError: OpenCV cannot be imported (mmcv needs it); the message says how to mend that.
    """
    global _active, _operators
    if _active is None:
        from mmcv_overrides import deferred_imports, ops, quiet, seams

        deferred_imports.install()
        quiet.check_opencv()
        _operators = ops.install()
        overrides = _overrides()
        seams.apply(overrides)
        _active = overrides
    return _active


def table() -> list[str]:
    """The start log: one line for the operators, then one ``old -> new: why`` line per override."""
    return [_operators, *(override.row() for override in activate())]
