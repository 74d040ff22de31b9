"""How much the rounding of an activation to 8 bits changes what a convolution reads."""

from __future__ import annotations

import numpy as np


def relative_noise(step: float, power: np.ndarray, depthwise: bool) -> float:
    """Standard deviation of the rounding of a convolution's input, relative to the input.

    A depthwise convolution does not mix channels: there it is the quadratic mean over the channels, each at most 1.

    Args:
        step: distance of two neighbouring numbers of the 8 bits. power: mean square of each channel [C].
    """
    power = power if depthwise else power.mean(keepdims=True)
    return float(np.sqrt(np.minimum(1, step**2 / 12 / np.maximum(power, np.finfo(float).tiny)).mean()))
