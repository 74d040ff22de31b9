"""What a benchmark says of the machine: its name, its peak, and whether it has a speed at all."""

from __future__ import annotations

import time

import torch

from mmcv_overrides.device import Accelerator
from mmcv_overrides.errors import UserError

# Dense peaks of the data sheets in TFLOP/s: (16 bit, TF32).
DATA_SHEET = {"H200": (989, 495), "H100": (989, 495), "A100": (312, 156)}
REPEATS, ENOUGH = 10, 1.0  # the most measurements, and the seconds of them after which there are enough


def refuse_simulated(accelerator: Accelerator) -> None:
    """Raises UserError for a device whose times mean nothing."""
    fault = accelerator.speed_fault()
    if fault:
        raise UserError(f"no speed is written for this device: {fault}; run the benchmark on hardware")


def peak(accelerator: Accelerator, half: bool) -> tuple[float, str]:
    """TFLOP/s that the device can do at most, and where the figure comes from."""
    name = accelerator.title()
    if accelerator.name == "cuda":
        for model, figures in DATA_SHEET.items():
            if model in name:
                return figures[0 if half else 1], f"data sheet of the {model}, {'16 bit' if half else 'TF32'}, dense"
    return measured_peak(accelerator, half), "fastest matmul or convolution measured in this run"


def measured_peak(accelerator: Accelerator, half: bool) -> float:
    """TFLOP/s of a large matrix product or of a 3x3 convolution of 256 channels, whichever is faster."""
    dtype = torch.bfloat16 if half else torch.float32
    side, shape = (1024, (1, 256, 48, 80)) if accelerator.name == "cpu" else (8192, (16, 256, 100, 168))
    where = {"device": accelerator.name, "dtype": dtype}
    a, b = torch.randn(side, side, **where), torch.randn(side, side, **where)
    image = torch.randn(shape, **where).to(memory_format=torch.channels_last)
    kernel = torch.randn(256, 256, 3, 3, **where).to(memory_format=torch.channels_last)
    rates = (
        2 * side**3 / _best(accelerator, lambda: a @ b),
        2 * 9 * 256**2 * image[:, 0].numel() / _best(accelerator, lambda: torch.conv2d(image, kernel, padding=1)),
    )
    return max(rates) / 1e12


def _best(accelerator: Accelerator, work) -> float:
    work()
    times = []
    while len(times) < REPEATS and sum(times) < ENOUGH:
        accelerator.synchronize()
        start = time.perf_counter()
        work()
        accelerator.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)
