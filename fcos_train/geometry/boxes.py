"""Padded boxes: [B, G, 4] f32 (x1, y1, x2, y2) in px with a count of valid ones for each image.

G comes from a short ladder, so that a run sees few shapes; letters as in :mod:`fcos_train.geometry.points`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

SMALLEST_RUNG = 8


def rung(objects: int) -> int:
    """The padded length G for an image with so many objects: 8, 16, 32, 64, ... without an upper end."""
    return max(SMALLEST_RUNG, 1 << (objects - 1).bit_length() if objects > 0 else 0)


def pad_objects(
    boxes: Sequence[Tensor], labels: Sequence[Tensor], size: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Lists of [n_b, 4] boxes and [n_b] labels -> padded ([B, G, 4] f32, [B, G] i64, [B] i64).

    G is ``size``, or by default the rung of the largest image. Padding is zeros.

    Raises:
        ValueError: an image has more objects than ``size``: none is dropped silently.
    """
    lengths = [len(item) for item in boxes]
    largest = max(lengths, default=0)
    size = rung(largest) if size is None else size
    if largest > size:
        raise ValueError(f"an image has {largest} objects, the padded batch holds {size}")
    padded = pad_sequence([item.float() for item in boxes], batch_first=True)
    classes = pad_sequence([item.long() for item in labels], batch_first=True)
    count = torch.tensor(lengths, device=padded.device)
    return F.pad(padded, (0, 0, 0, size - largest)), F.pad(classes, (0, size - largest)), count


def valid_objects(count: Tensor, size: int) -> Tensor:
    """[B] counts -> [B, G] bool, true for the first ``count`` of ``size`` places."""
    return torch.arange(size, device=count.device) < count[:, None]


def area(boxes: Tensor) -> Tensor:
    """[..., 4] boxes -> [...] areas in px^2 (negative for a box with one side turned over)."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return sides[..., 0] * sides[..., 1]


def scale_boxes(boxes: Tensor, factor: float) -> Tensor:
    """[..., 4] boxes -> boxes of the same centre with sides multiplied by ``factor``."""
    half = (boxes[..., 2:] - boxes[..., :2]) * 0.5 * factor
    centre = (boxes[..., 2:] + boxes[..., :2]) * 0.5
    return torch.cat((centre - half, centre + half), dim=-1)
