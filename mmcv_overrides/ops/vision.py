"""torchvision's NMS kernel, for whoever has it: found out at import, no dependency.

Only NMS is borrowed. On one CPU core torchvision's RoIAlign and deformable convolution take several times as long as
`rows` does, because their loops run channel by channel; see `benchmarks/ops.py`.
"""

from functools import lru_cache

import torch

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


@lru_cache
def _has_kernel(device_type: str) -> bool:
    """One trial call: a torchvision built for the CPU imports well on a CUDA machine and fails when called."""
    try:
        ops.nms(torch.zeros(1, 4, device=device_type), torch.zeros(1, device=device_type), 0.5)
    except Exception:
        return False
    return True
