"""Replaces parts of mmengine and mmcv: operators, devices, parallel training, optimizer step, checkpoints, clocks.

:func:`activate` installs the replacements once and returns the table of them. Call it before ``mmcv.ops`` or ``mmdet``
is imported. With mmdet's own tools, write ``custom_imports = dict(imports=["mmcv_overrides.auto"])`` in the config
instead.
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
        fetching,
        json_log,
        loop,
        optimizer,
        optimizer_constructor,
        parallel,
        parameter_groups,
        precision,
        quiet,
        rescale,
        slurm,
        stopping,
        text_log,
        timer,
        whole_table,
    )
    from mmcv_overrides.ops import needed, roi_align_layer

    modules = [quiet, device, parallel, slurm, precision, optimizer, optimizer_constructor, parameter_groups]
    modules += [checkpoint, data_files, rescale, loop, fetching, stopping, timer, text_log, json_log, whole_table]
    modules += [needed, roi_align_layer]
    return [override for module in modules for override in module.OVERRIDES]


def activate() -> list[Override]:
    """Install the overrides; later calls only return the list.

    Raises:
        SeamError: a part of mmengine differs from what an override assumes; nothing has been patched.
        UserError: OpenCV, which mmcv needs, cannot be imported; the message says how to fix that.
    """
    global _active, _operators
    if _active is None:
        from mmcv_overrides import deferred_compiler, deferred_imports, ops, quiet, seams

        deferred_imports.install()
        deferred_compiler.install()
        quiet.check_opencv()
        _operators = ops.install()
        overrides = _overrides()
        seams.apply(overrides)
        _active = overrides
    return _active


def table() -> list[str]:
    """Lines for the log: one for the operators, then ``old -> new: why`` for each override."""
    return [_operators, *(override.row() for override in activate())]
