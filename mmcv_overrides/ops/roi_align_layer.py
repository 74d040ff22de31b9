"""mmcv's RoIAlign layer with ``use_torchvision=True`` where torchvision, or its kernel for the device, is absent."""

from mmcv.ops.roi_align import RoIAlign, roi_align
from torch import Tensor

from mmcv_overrides.ops import vision
from mmcv_overrides.seams import Override

_forward = RoIAlign.forward


def forward(self: RoIAlign, input: Tensor, rois: Tensor) -> Tensor:
    """Pool regions [R, 5] of the feature map ``input`` [B, C, H, W]: [R, C, P, Q].

    torchvision's operator is mmcv's average form; the two agree to rounding.
    """
    if not self.use_torchvision or (vision.ops is not None and input.device.type in ("cpu", "cuda")):
        return _forward(self, input, rois)
    return roi_align(input, rois, self.output_size, self.spatial_scale, self.sampling_ratio, "avg", self.aligned)


OVERRIDES = [
    Override(
        "mmcv.ops.roi_align:RoIAlign.forward",
        forward,
        "use_torchvision=True (CrowdDet) also without torchvision: the same operator of mmcv",
    ),
]
