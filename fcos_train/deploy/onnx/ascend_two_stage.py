"""Ascend's operators RoiExtractor and DeformableConv2D: their definitions in numpy, for onnx.ReferenceEvaluator.

Shape symbols: B images, C input and O output channels, K regions, D deformable groups, T taps of the kernel (kh * kw).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx.reference.op_run import OpRun


def sample(image: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Bilinear samples [C, N] of an image [C, H, W] at positions y, x [N] in px; outside the image is zero."""
    height, width = image.shape[1:]
    low_y, low_x = np.floor(y), np.floor(x)
    out = np.zeros((len(image), len(y)), np.float32)
    for step_y in (0, 1):
        for step_x in (0, 1):
            row, column = low_y + step_y, low_x + step_x
            weight = (1 - np.abs(y - row)) * (1 - np.abs(x - column))
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            row, column = (np.clip(v, 0, most - 1).astype(int) for v, most in ((row, height), (column, width)))
            out += image[:, row, column] * np.where(inside, weight, 0).astype(np.float32)
    return out


def _roi_align(image: np.ndarray, box: np.ndarray, size: tuple[int, int], sampling: int) -> np.ndarray:
    """Average the samples of a box: [C, h, w].

    Args:
        image: [C, H, W]. box: x1 y1 x2 y2 in pixels of the map, with pixel centres at halves.
        size: (h, w). sampling: samples per bin and axis; 0: one per pixel.
    """
    (height, width), (x1, y1, x2, y2) = size, box.astype(np.float32) - np.float32(0.5)
    count = [sampling or max(int(np.ceil((b - a) / n)), 1) for a, b, n in ((y1, y2, height), (x1, x2, width))]
    places = []
    for low, high, bins, n, most in (
        (y1, y2, height, count[0], image.shape[1]),
        (x1, x2, width, count[1], image.shape[2]),
    ):
        step = (high - low) / (bins * n)
        place = low + (np.arange(bins * n, dtype=np.float32) + np.float32(0.5)) * step
        place[(place < -1) | (place > most)] = -9  # more than a pixel outside: zero
        places.append(np.where(place == -9, place, np.clip(place, 0, most - 1)))
    y, x = (grid.reshape(-1) for grid in np.meshgrid(*places, indexing="ij"))
    values = sample(image, y, x).reshape(len(image), height, count[0], width, count[1])
    return values.mean((2, 4))


def roi_extractor(
    maps: Sequence[np.ndarray],
    rois: np.ndarray,
    finest_scale: int,
    size: tuple[int, int],
    sampling: int,
    scales: Sequence[float],
) -> np.ndarray:
    """Pool features [K, C, h, w] of regions, each from the level of its size.

    FPN, https://arxiv.org/abs/1612.03144, eq. 1.

    Args:
        maps: for each level [B, C, H, W].
        rois: [K, 5], image, x1, y1, x2, y2 in pixels of the input.
        finest_scale: regions of up to twice this side, in px, belong to the first level.
        size: (h, w). sampling: samples per bin and axis; 0: one per pixel.
        scales: map pixels per input pixel, of each level.
    """
    out = np.zeros((len(rois), maps[0].shape[1], *size), np.float32)
    side = np.sqrt((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])) / np.float32(finest_scale) + np.float32(1e-6)
    level = sum((side >= 2**k).astype(int) for k in range(1, len(maps)))
    for k, roi in enumerate(rois):
        image = maps[level[k]][int(roi[0])]
        out[k] = _roi_align(image, roi[1:] * np.float32(scales[level[k]]), size, sampling)
    return out


class RoiExtractor(OpRun):
    """See :func:`roi_extractor`. The inputs are the maps of all levels, then the regions."""

    op_domain = ""

    def _run(
        self,
        *inputs: np.ndarray,
        aligned: int,
        finest_scale: int,
        pooled_height: int,
        pooled_width: int,
        pool_mode: str | bytes,
        roi_scale_factor: float,
        sample_num: int,
        spatial_scale: Sequence[float],
    ) -> tuple[np.ndarray]:
        if not aligned or pool_mode not in ("avg", b"avg") or roi_scale_factor:
            raise NotImplementedError("RoiExtractor: only aligned averages of unscaled regions are implemented")
        size = (int(pooled_height), int(pooled_width))
        return (roi_extractor(inputs[:-1], inputs[-1], finest_scale, size, int(sample_num), spatial_scale),)


def deformable_conv(
    x: np.ndarray,
    weight: np.ndarray,
    offsets: np.ndarray,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    groups: int,
    deformable_groups: int,
) -> np.ndarray:
    """Deformable convolution, [B, O, h, w] (https://arxiv.org/abs/1811.11168).

    Args:
        x: [B, C, H, W]. weight: [O, C / groups, kh, kw].
        offsets: [B, 3 * D * T, h, w]: all x offsets, all y offsets, all factors; each by group, then tap.
        strides, pads, dilations: (y, x) each.
        groups, deformable_groups: of the channels; the latter is D.
    """
    taps, (height, width) = weight.shape[2] * weight.shape[3], offsets.shape[2:]
    moves = offsets.reshape(len(x), 3, deformable_groups, taps, height, width)
    tap_y, tap_x = np.divmod(np.arange(taps), weight.shape[3])
    base_y = (np.arange(height) * strides[0] - pads[0])[None, :, None] + (tap_y * dilations[0])[:, None, None]
    base_x = (np.arange(width) * strides[1] - pads[1])[None, None, :] + (tap_x * dilations[1])[:, None, None]
    share, kernels = x.shape[1] // deformable_groups, weight.reshape(groups, len(weight) // groups, -1)
    out = []
    for image, (move_x, move_y, factor) in zip(x, moves, strict=True):
        columns = [
            sample(
                image[d * share : (d + 1) * share], (base_y + move_y[d]).reshape(-1), (base_x + move_x[d]).reshape(-1)
            )
            * factor[d].reshape(-1)
            for d in range(deformable_groups)
        ]
        columns = np.concatenate(columns).reshape(groups, -1, height * width)
        out.append((kernels @ columns).reshape(-1, height, width))
    return np.stack(out).astype(x.dtype)


class DeformableConv2D(OpRun):
    """See :func:`deformable_conv`. ``bias``, ``im2col_step`` and ``data_format`` have no effect on the result."""

    op_domain = ""

    def _run(
        self,
        x: np.ndarray,
        weight: np.ndarray,
        offsets: np.ndarray,
        bias_values: np.ndarray | None = None,
        strides: Sequence[int] = (1, 1),
        pads: Sequence[int] = (0, 0),
        dilations: Sequence[int] = (1, 1),
        groups: int = 1,
        deformable_groups: int = 1,
        bias: int = 0,
        im2col_step: int = 32,
        data_format: str = "NCHW",
    ) -> tuple[np.ndarray]:
        out = deformable_conv(x, weight, offsets, strides, pads, dilations, int(groups), int(deformable_groups))
        return (out if bias_values is None else out + bias_values[:, None, None],)
