"""The objects of a batch as one tensor of fixed shape, with the sizes of its images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fcos_train.geometry.boxes import pad_boxes, rung


@dataclass(frozen=True)
class PaddedObjects:
    """The ground truth of a batch. Symbols as in :mod:`fcos_train.geometry.points`; I is the padded number of ignored
    regions per image.

    Attributes:
        table: [B, 1 + G + I, 5] f32, all numbers of the batch, so that a single copy moves them. Row 0 is
            (object count, ignored count, image rows, image columns, 0); then (x1, y1, x2, y2, label) of every object,
            in px; then the same for every ignored region.
        places: G.
        divisor: px; losses cover an image up to its own size rounded up to a multiple of this (mmdet's ``pad_shape``).
        samples: one record per image, for logs and hooks; not moved to the device.
    """

    table: Tensor
    places: int
    divisor: int = 1
    samples: Sequence[Any] = field(default=(), compare=False)

    @classmethod
    def gather(
        cls,
        boxes: Sequence[Tensor],
        labels: Sequence[Tensor],
        ignored: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        divisor: int = 1,
        samples: Sequence[Any] = (),
    ) -> PaddedObjects:
        """Build the table on the device of the boxes.

        Args:
            boxes, labels, ignored: one tensor per image: boxes [n, 4] in px, labels [n], ignored regions [i, 4] in px.
                ``ignored`` may be empty.
            sizes: (rows, columns) of each image in px.
        """
        padded = pad_boxes(boxes)
        most = max((len(region) for region in ignored), default=0)
        regions = pad_boxes(ignored, rung(most)) if most else padded.new_zeros(len(boxes), 0, 4)
        classes = pad_sequence([item.float() for item in labels], batch_first=True)
        classes = F.pad(classes, (0, padded.shape[1] - classes.shape[1]))
        ignored_counts = [len(region) for region in ignored] or [0] * len(boxes)
        rows = [[len(own), count, *size, 0] for own, count, size in zip(boxes, ignored_counts, sizes, strict=True)]
        head = torch.tensor(rows, dtype=torch.float32, device=padded.device).unsqueeze(1)
        objects = torch.cat((padded, classes.unsqueeze(2)), 2)
        return cls(torch.cat((head, objects, F.pad(regions, (0, 1))), 1), padded.shape[1], divisor, samples)

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]

    def moved(self, move: Callable[[Tensor], Tensor]) -> PaddedObjects:
        """A copy whose table is ``move(table)``."""
        return replace(self, table=move(self.table))

    def pin_memory(self) -> PaddedObjects:
        """Called by DataLoader when ``pin_memory`` is set."""
        return self.moved(Tensor.pin_memory)

    @property
    def boxes(self) -> Tensor:
        """[B, G, 4] f32 xyxy in px."""
        return self.table[:, 1 : 1 + self.places, :4]

    @property
    def labels(self) -> Tensor:
        """[B, G] i64."""
        return self.table[:, 1 : 1 + self.places, 4].long()

    @property
    def count(self) -> Tensor:
        """[B] i64, number of objects in each image."""
        return self.table[:, 0, 0].long()

    @property
    def ignore(self) -> tuple[Tensor, Tensor] | None:
        """Ignored regions [B, I, 4] f32 in px and their counts [B] i64; None if no image of the batch has any."""
        if self.table.shape[1] == 1 + self.places:
            return None
        return self.table[:, 1 + self.places :, :4], self.table[:, 0, 1].long()

    @property
    def image_size(self) -> Tensor:
        """[B, 2] f32 (rows, columns) of the images in px, without padding."""
        return self.table[:, 0, 2:4]

    @property
    def padded_size(self) -> Tensor:
        """[B, 2] f32, ``image_size`` rounded up to ``divisor``."""
        return torch.ceil(self.image_size / self.divisor) * self.divisor
