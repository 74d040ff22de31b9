"""The module that replaces ``mmcv._ext``: our operators, and a clear error for each of the others."""

import sys
from collections.abc import Callable
from typing import Any, NoReturn

from mmcv_overrides.errors import UserError
from mmcv_overrides.ops.deform_conv import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from mmcv_overrides.ops.focal_loss import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from mmcv_overrides.ops.nms import nms, softnms
from mmcv_overrides.ops.roi_align import roi_align_backward, roi_align_forward

__all__ = [
    "deform_conv_backward_input",
    "deform_conv_backward_parameters",
    "deform_conv_forward",
    "get_compiler_version",
    "get_compiling_cuda_version",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
    "nms",
    "roi_align_backward",
    "roi_align_forward",
    "sigmoid_focal_loss_backward",
    "sigmoid_focal_loss_forward",
    "softmax_focal_loss_backward",
    "softmax_focal_loss_forward",
    "softnms",
]


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

    def missing(*args: Any, **kwargs: Any) -> NoReturn:
        caller = sys._getframe(1)
        user = f"{caller.f_globals.get('__name__', 'unknown')}.{caller.f_code.co_name}"
        raise OperatorMissing(
            f"operator '{name}' needs a compiled mmcv, and this mmcv was installed without compiled operators. "
            f"It was called by {user}. Install an mmcv that was compiled for this torch and device, or "
            "use another layer in the config; nms, soft_nms, RoIAlign, deformable convolution and focal loss work "
            "without compilation."
        )

    missing.__name__ = missing.__qualname__ = name
    return missing
