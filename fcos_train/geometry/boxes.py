"""Padded boxes: [B, G, 4] f32 (x1, y1, x2, y2) in px, with the number of valid boxes of each image.

G is a power of two, so that a run sees few shapes. Shape symbols as in :mod:`fcos_train.geometry.points`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

SMALLEST_RUNG = 8


def rung(objects: int) -> int:
    """The padded length G for ``objects`` objects: the next of 8, 16, 32, 64, ... without an upper limit."""
    return max(SMALLEST_RUNG, 1 << (objects - 1).bit_length() if objects > 0 else 0)


def pad_objects(
    boxes: Sequence[Tensor], labels: Sequence[Tensor], size: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Lists of [n_b, 4] boxes and [n_b] labels -> boxes [B, G, 4] f32, labels [B, G] i64, counts [B] i64.

    G is ``size``; by default the :func:`rung` of the image with most objects. The padding is zeros.

    Raises:
        ValueError: an image has more objects than ``size``; none is dropped silently.
    """
    padded = pad_boxes(boxes, size)
    classes = pad_sequence([item.long() for item in labels], batch_first=True)
    count = torch.tensor([len(item) for item in boxes], device=padded.device)
    return padded, F.pad(classes, (0, padded.shape[1] - classes.shape[1])), count


def pad_boxes(boxes: Sequence[Tensor], size: int | None = None) -> Tensor:
    """The padded boxes [B, G, 4] f32 of :func:`pad_objects`."""
    largest = max((len(item) for item in boxes), default=0)
    size = rung(largest) if size is None else size
    if largest > size:
        raise ValueError(f"an image has {largest} objects, the padded batch holds {size}")
    padded = pad_sequence([item.float() for item in boxes], batch_first=True)
    return F.pad(padded, (0, 0, 0, size - largest))


def valid_objects(count: Tensor, size: int) -> Tensor:
    """[B] counts -> [B, G] bool, true for the first ``count`` of the G = ``size`` places."""
    return torch.arange(size, device=count.device) < count[:, None]


def area(boxes: Tensor) -> Tensor:
    """[..., 4] boxes -> [...] areas in px^2; negative if exactly one side is inverted."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return sides[..., 0] * sides[..., 1]


def scale_boxes(boxes: Tensor, factor: float) -> Tensor:
    """[..., 4] boxes -> [..., 4] boxes with the same centres and sides scaled by ``factor``."""
    half = (boxes[..., 2:] - boxes[..., :2]) * 0.5 * factor
    centre = (boxes[..., 2:] + boxes[..., :2]) * 0.5
    return torch.cat((centre - half, centre + half), dim=-1)
