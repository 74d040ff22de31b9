"""The module that stands at ``mmcv._ext``: the operators written here, and a clear error for each of the others."""

import sys
from collections.abc import Callable

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
    """A compiled mmcv operator was called that has no portable form."""


def get_compiler_version() -> str:
    """What mmcv prints about its build; nothing was compiled."""
    return "none (portable operators of mmcv_overrides)"


def get_compiling_cuda_version() -> str:
    """What mmcv prints about its build; nothing was compiled."""
    return "not available"


def __getattr__(name: str) -> Callable:
    """Answer every operator name, because mmcv asks for all of them at import; the error comes with the call."""
    if name.startswith("__"):
        raise AttributeError(name)

    def missing(*args, **kwargs):
        caller = sys._getframe(1)
        user = f"{caller.f_globals.get('__name__', 'unknown')}.{caller.f_code.co_name}"
        raise OperatorMissing(
            f"operator '{name}' needs a compiled mmcv, and this mmcv was installed without compiled operators. "
            f"It was called by {user}. Way out: install an mmcv that was compiled for this torch and device, or "
            "use another layer in the config: nms, soft_nms, RoIAlign, deformable convolution and focal loss work "
            "without compilation."
        )

    missing.__name__ = missing.__qualname__ = name
    return missing
