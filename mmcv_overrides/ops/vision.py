"""torchvision's NMS kernel where it is installed; an optional dependency, looked up at import.

Only its NMS is used. On a CPU core torchvision's RoIAlign and deformable convolution take two to six times as long as
`rows` does (measured with torchvision 0.28 and torch 2.13), because their loops run channel by channel.
"""

import importlib
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

ops: ModuleType | None = None
try:
    ops = importlib.import_module("torchvision.ops")
    status = "NMS from torchvision where it has a kernel"
except ModuleNotFoundError:
    status = "torchvision is not installed"
except Exception as error:  # a torchvision built for another torch fails in many ways
    status = f"torchvision cannot be loaded ({str(error).splitlines()[0]})"


def serves_nms(device: torch.device, offset: int) -> bool:
    """Whether torchvision's NMS can be used: it supports CPU and CUDA, and ``offset`` 0 only."""
    return ops is not None and offset == 0 and device.type in ("cpu", "cuda") and _has_kernel(device.type)


def nms_of_sorted(boxes: Tensor, iou_threshold: float) -> Tensor:
    """Positions [M], int64, of the boxes to keep among boxes [N, 4], which are sorted best first.

    torchvision sorts too, and orders equal scores differently from mmcv; descending ranks as scores fix the order.
    """
    assert ops is not None
    ranks = torch.arange(len(boxes), 0, -1, device=boxes.device, dtype=boxes.dtype)
    return ops.nms(boxes, ranks, iou_threshold)


@lru_cache
def _has_kernel(device_type: str) -> bool:
    """One trial call: a torchvision built for the CPU can be imported on a CUDA machine, but fails when called."""
    assert ops is not None
    try:
        ops.nms(torch.zeros(1, 4, device=device_type), torch.zeros(1, device=device_type), 0.5)
    except Exception:
        return False
    return True
