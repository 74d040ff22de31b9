"""The module that replaces ``mmcv._ext``: our operators, and a clear error for each of the others."""

import sys
from collections.abc import Callable
from typing import Any, NoReturn

from mmcv_overrides.errors import UserError
from mmcv_overrides.ops.border_align import border_align_backward, border_align_forward
from mmcv_overrides.ops.carafe import carafe_backward, carafe_forward, carafe_naive_backward, carafe_naive_forward
from mmcv_overrides.ops.deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from mmcv_overrides.ops.deform_roi_pool import deform_roi_pool_backward, deform_roi_pool_forward
from mmcv_overrides.ops.focal_loss import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from mmcv_overrides.ops.line_nms import line_nms_forward
from mmcv_overrides.ops.masked_conv import masked_col2im_forward, masked_im2col_forward
from mmcv_overrides.ops.ms_deform_attn import ms_deform_attn_backward, ms_deform_attn_forward
from mmcv_overrides.ops.nms import nms, nms_match, softnms
from mmcv_overrides.ops.overlaps import bbox_overlaps, box_iou_rotated, nms_rotated
from mmcv_overrides.ops.prroi_pool import prroi_pool_backward, prroi_pool_coor_backward, prroi_pool_forward
from mmcv_overrides.ops.psa_mask import psamask_backward, psamask_forward
from mmcv_overrides.ops.roi_align import roi_align_backward, roi_align_forward
from mmcv_overrides.ops.roi_align_rotated import roi_align_rotated_backward, roi_align_rotated_forward
from mmcv_overrides.ops.roi_pool import roi_pool_backward, roi_pool_forward

__all__ = [
    "bbox_overlaps",
    "border_align_backward",
    "border_align_forward",
    "box_iou_rotated",
    "carafe_backward",
    "carafe_forward",
    "carafe_naive_backward",
    "carafe_naive_forward",
    "deform_conv_backward_input",
    "deform_conv_backward_parameters",
    "deform_conv_forward",
    "deform_roi_pool_backward",
    "deform_roi_pool_forward",
    "get_compiler_version",
    "get_compiling_cuda_version",
    "line_nms_forward",
    "masked_col2im_forward",
    "masked_im2col_forward",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
    "ms_deform_attn_backward",
    "ms_deform_attn_forward",
    "nms",
    "nms_match",
    "nms_rotated",
    "prroi_pool_backward",
    "prroi_pool_coor_backward",
    "prroi_pool_forward",
    "psamask_backward",
    "psamask_forward",
    "roi_align_backward",
    "roi_align_forward",
    "roi_align_rotated_backward",
    "roi_align_rotated_forward",
    "roi_pool_backward",
    "roi_pool_forward",
    "sigmoid_focal_loss_backward",
    "sigmoid_focal_loss_forward",
    "softmax_focal_loss_backward",
    "softmax_focal_loss_forward",
    "softnms",
]


# File of mmcv.ops -> operators that it asked for at its import and that have no portable form.
LACKING: dict[str, list[str]] = {}


class OperatorMissing(UserError, NotImplementedError):
    """A compiled mmcv operator without a portable form was called."""


def get_compiler_version() -> str:
    """The compiler that mmcv reports; nothing was compiled."""
    return "none (portable operators of mmcv_overrides)"


def get_compiling_cuda_version() -> str:
    """The CUDA version that mmcv reports; nothing was compiled."""
    return "not available"


def __getattr__(name: str) -> Callable:
    """Answer every operator name, because mmcv asks for all of them at import; the error comes with the call."""
    if name.startswith("__"):
        raise AttributeError(name)
    _note_import(name)

    def missing(*args: Any, **kwargs: Any) -> NoReturn:
        caller = sys._getframe(1)
        user = f"{caller.f_globals.get('__name__', 'unknown')}.{caller.f_code.co_name}"
        raise OperatorMissing(
            f"operator '{name}' needs a compiled mmcv, and this mmcv was installed without compiled operators. "
            f"It was called by {user}. Install an mmcv that was compiled for this torch and device, or "
            "use another layer in the config; all operators that mmdet's detectors use work without compilation."
        )

    missing.__name__ = missing.__qualname__ = name
    return missing


def _note_import(name: str) -> None:
    """Record that a file of ``mmcv.ops`` asks for an operator while it is imported (in ``ext_loader.load_ext``)."""
    loader = sys._getframe(2)
    importer = loader.f_back
    if loader.f_code.co_name != "load_ext" or importer is None:
        return
    package, _, file = importer.f_globals.get("__name__", "").rpartition(".")
    if package == "mmcv.ops" and name not in LACKING.setdefault(file, []):
        LACKING[file].append(name)
