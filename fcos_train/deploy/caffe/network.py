"""A caffe network, layer by layer. The one blob that a layer returns has the name of the layer.

Shape symbols: C channels, H, W sides, k kernel, s stride, p padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcos_train.deploy.caffe.messages import NetParameter

Pair = tuple[int, int]


@dataclass(frozen=True)
class Blob:
    """A blob of the network.

    Attributes:
        name: of the blob and of the layer that returns it.
        shape: (1, C, H, W).
    """

    name: str
    shape: tuple[int, ...]


class Network:
    """Collects layers.

    Args:
        name: of the network.

    Attributes:
        message: the `NetParameter` with the layers and their weights.
    """

    def __init__(self, name: str) -> None:
        self.message: Any = NetParameter(name=name)
        self._names: set[str] = set()

    def unused(self, wish: str) -> str:
        """The wished name, with a number if a layer has it."""
        name, number = wish, 1
        while name in self._names:
            name, number = f"{wish}_{number}", number + 1
        return name

    def add(
        self,
        kind: str,
        name: str,
        bottoms: Sequence[Blob],
        blobs: Sequence[np.ndarray] = (),
        parameters: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> str:
        """Add a layer with one top.

        Args:
            kind: caffe's type. name: free one. bottoms: what it reads. blobs: its weights.
            parameters: name of the field of the layer -> values.

        Returns:
            the name of its top.
        """
        name = self.unused(name)
        self._names.add(name)
        layer = self.message.layer.add(name=name, type=kind, bottom=[blob.name for blob in bottoms], top=[name])
        for field, values in (parameters or {}).items():
            target = getattr(layer, field)
            target.SetInParent()
            for key, value in values.items():
                if isinstance(value, (list, tuple)):
                    getattr(target, key).extend(value)
                else:
                    setattr(target, key, value)
        for blob in blobs:
            proto = layer.blobs.add(data=np.ascontiguousarray(blob, "<f4").tobytes())
            proto.shape.dim.extend(blob.shape)
        return name

    def input(self, name: str, shape: Sequence[int]) -> str:
        """The input of the network."""
        name = self.add("Input", name, ())
        self.message.layer[-1].input_param.shape.add(dim=list(shape))
        return name

    def convolution(
        self,
        name: str,
        bottom: Blob,
        weight: np.ndarray,
        bias: np.ndarray | None = None,
        *,
        stride: Pair = (1, 1),
        pad: Pair = (0, 0),
        dilation: Pair = (1, 1),
        group: int = 1,
    ) -> str:
        """A convolution with weights [C_out, C_in / group, k, k] and a bias [C_out]."""
        values = {
            "num_output": weight.shape[0],
            "bias_term": bias is not None,
            **_sides("kernel", weight.shape[2:], "kernel_size"),
            **_sides("stride", stride),
            **_sides("pad", pad),
            **({"group": group} if group > 1 else {}),
            **({"dilation": list(dilation)} if dilation != (1, 1) else {}),
        }
        blobs = [weight] if bias is None else [weight, bias]
        return self.add("Convolution", name, [bottom], blobs, {"convolution_param": values})

    def upsample(self, name: str, bottom: Blob, factor: Pair) -> str:
        """Repeat every value ``factor`` times: the transposed convolution, channel by channel, with ones.

        No layer of caffe itself does this; the `Upsample` of some forks is known to no other reader.
        """
        channels = bottom.shape[1]
        values = {
            "num_output": channels,
            "bias_term": False,
            "group": channels,
            **_sides("kernel", factor, "kernel_size"),
            **_sides("stride", factor),
        }
        ones = np.ones((channels, 1, *factor), np.float32)
        return self.add("Deconvolution", name, [bottom], [ones], {"convolution_param": values})

    def pooling(self, name: str, bottom: Blob, method: str, kernel: Pair, stride: Pair, pad: Pair) -> str:
        """Pooling (``method`` MAX or AVE) as caffe computes it: the size of the result is rounded up."""
        values = {
            "pool": ("MAX", "AVE").index(method),
            **_sides("kernel", kernel, "kernel_size"),
            **_sides("stride", stride),
            **_sides("pad", pad),
        }
        listed = {key: value[0] if isinstance(value, list) else value for key, value in values.items()}
        return self.add("Pooling", name, [bottom], (), {"pooling_param": listed})

    def pooling_rounded_down(self, name: str, bottom: Blob, method: str, kernel: Pair, stride: Pair, pad: Pair) -> str:
        """Pooling of which the size is rounded down, as in PyTorch.

        The switches for it differ: `round_mode` of BVLC caffe makes OpenCV ignore all parameters of the layer, which
        has `ceil_mode`. So the maximum is taken at every position, and a convolution with 1 keeps every s-th.
        """
        dense = Blob(self.pooling(f"{name}/dense", bottom, method, kernel, (1, 1), pad), bottom.shape)
        channels = bottom.shape[1]
        ones = np.ones((channels, 1, 1, 1), np.float32)
        return self.convolution(name, dense, ones, stride=stride, group=channels)

    def scale(self, name: str, bottom: Blob, factor: np.ndarray, shift: np.ndarray | None = None) -> str:
        """Multiply each channel by factor [C] and add shift [C]."""
        blobs = [factor] if shift is None else [factor, shift]
        return self.add("Scale", name, [bottom], blobs, {"scale_param": {"axis": 1, "bias_term": shift is not None}})

    def power(self, name: str, bottom: Blob, scale: float = 1.0, shift: float = 0.0) -> str:
        """Multiply by a number and add a number."""
        return self.add("Power", name, [bottom], (), {"power_param": {"power": 1.0, "scale": scale, "shift": shift}})

    def eltwise(self, name: str, bottoms: Sequence[Blob], operation: str, coefficients: Sequence[float] = ()) -> str:
        """Sum (weighted) or product of blobs of one shape; ``operation`` is SUM or PROD."""
        values: dict[str, Any] = {"operation": ("PROD", "SUM").index(operation)}
        if coefficients:
            values["coeff"] = list(coefficients)
        return self.add("Eltwise", name, bottoms, (), {"eltwise_param": values})


def _sides(name: str, pair: Sequence[int], both: str | None = None) -> dict[str, Any]:
    """One field for equal sides (a repeated one in convolutions), two for different ones."""
    height, width = map(int, pair)
    if height != width:
        return {f"{name}_h": height, f"{name}_w": width}
    return {both or name: [height]}
