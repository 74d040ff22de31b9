"""torchvision's NMS kernel, for whoever has it: found out at import, no dependency.

Only NMS is borrowed. On a CPU core torchvision's RoIAlign and deformable convolution take two to six times as long as
`rows` does (measured with torchvision 0.28 and torch 2.13), because their loops run channel by channel.
"""

from functools import lru_cache

import torch
from torch import Tensor

ops = None
try:
    import torchvision.ops as ops

    status = "NMS from torchvision where it has a kernel"
except ModuleNotFoundError:
    status = "torchvision is not installed"
except Exception as error:  # one built for another torch fails in many ways; each means: not usable
    status = f"torchvision does not load ({str(error).splitlines()[0]})"


def serves_nms(device: torch.device, offset: int) -> bool:
    """Whether torchvision's NMS can be called: it knows CPU and CUDA, and no legacy width (``offset`` 1)."""
    return ops is not None and offset == 0 and device.type in ("cpu", "cuda") and _has_kernel(device.type)


def nms_of_sorted(boxes: Tensor, iou_threshold: float) -> Tensor:
    """Positions of the kept ones among boxes [N, 4] that come best first.

    torchvision sorts by itself, and otherwise than mmcv where scores are equal; falling ranks leave it no choice.
    """
    ranks = torch.arange(len(boxes), 0, -1, device=boxes.device, dtype=boxes.dtype)
    return ops.nms(boxes, ranks, iou_threshold)


@lru_cache
def _has_kernel(device_type: str) -> bool:
    """One trial call: a torchvision built for the CPU imports well on a CUDA machine and fails when called."""
    try:
        ops.nms(torch.zeros(1, 4, device=device_type), torch.zeros(1, device=device_type), 0.5)
    except Exception:
        return False
    return True
