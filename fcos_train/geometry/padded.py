"""The objects of a batch in tensors of fixed shape, and what is known of its images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fcos_train.geometry.boxes import pad_objects, rung


@dataclass(frozen=True)
class PaddedObjects:
    """Letters as in :mod:`fcos_train.geometry.points`; I is the padded number of ignored regions.

    Attributes:
        table: [B, 1 + G + I, 5] f32, all numbers of the batch, so that one copy moves them. Row 0 is
            (count, ignored count, image rows, image columns, 0), then x1, y1, x2, y2, label of every object, then
            the same of every ignored region.
        places: G.
        divisor: px; an image has losses up to its own size rounded up to it (mmdet's ``pad_shape``).
        samples: one record for each image, for logs and hooks; not moved to the device.
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
        """From a list for each image: [n, 4] boxes, [n] labels, [i, 4] regions, (rows, columns) of the image."""
        padded, classes, count = pad_objects(boxes, labels)
        regions = padded.new_zeros(len(boxes), 0, 4)
        most = max((len(region) for region in ignored), default=0)
        if most:
            none = [region.new_zeros(len(region)) for region in ignored]
            regions = pad_objects(ignored, none, rung(most))[0]
        counts = torch.stack((count, torch.tensor([len(region) for region in ignored])), 1)
        head = torch.cat((counts, torch.tensor(sizes), torch.zeros(len(boxes), 1)), 1).unsqueeze(1)
        rows = torch.cat((padded, classes.unsqueeze(2)), 2)
        regions = torch.nn.functional.pad(regions, (0, 1))
        return cls(torch.cat((head, rows, regions), 1), padded.shape[1], divisor, samples)

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.samples)

    def __getitem__(self, index: int) -> Any:
        return self.samples[index]

    def moved(self, move: Callable[[Tensor], Tensor]) -> PaddedObjects:
        """The same with its tensor put through ``move``."""
        return replace(self, table=move(self.table))

    def pin_memory(self) -> PaddedObjects:
        """For DataLoader's ``pin_memory``."""
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
        """[B] i64, objects of each image."""
        return self.table[:, 0, 0].long()

    @property
    def ignore(self) -> tuple[Tensor, Tensor] | None:
        """([B, I, 4] f32, [B] i64) or None where no image of the batch has any."""
        if self.table.shape[1] == 1 + self.places:
            return None
        return self.table[:, 1 + self.places :, :4], self.table[:, 0, 1].long()

    @property
    def image_size(self) -> Tensor:
        """[B, 2] f32 (rows, columns) of the images without their padding."""
        return self.table[:, 0, 2:4]

    @property
    def padded_size(self) -> Tensor:
        """[B, 2] f32, ``image_size`` rounded up to ``divisor``."""
        return torch.ceil(self.image_size / self.divisor) * self.divisor
