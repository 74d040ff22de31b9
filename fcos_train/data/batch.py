"""Fixed-shape batches: uint8 images padded to one of a few shapes, objects padded to one of a few numbers."""

from __future__ import annotations

import copy
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from itertools import chain, cycle, islice
from typing import Any

import torch
from mmdet.registry import DATA_SAMPLERS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmengine.registry import FUNCTIONS
from torch import Tensor

from fcos_train.geometry.padded import PaddedObjects

Shape = tuple[int, int]  # rows, columns in px


def fitting_shape(sizes: Sequence[Shape], shapes: Sequence[Shape], divisor: int) -> Shape:
    """The smallest of ``shapes`` that fits images of all ``sizes``; if none does, their common size rounded up."""
    rows, columns = max(h for h, _ in sizes), max(w for _, w in sizes)
    fitting = [(h, w) for h, w in shapes if h >= rows and w >= columns]
    if fitting:
        return min(fitting, key=lambda shape: shape[0] * shape[1])
    return math.ceil(rows / divisor) * divisor, math.ceil(columns / divisor) * divisor


@FUNCTIONS.register_module()
def fixed_shape_collate(
    batch: Sequence[dict], shapes: Sequence[Shape] = (), divisor: int = 32, channels_last: bool = False
) -> dict:
    """Collate the results of ``PackDetInputs`` into one batch.

    Args:
        batch: B results, with images u8 [3, h, w].
        shapes: (rows, columns) of the batches to choose from; see :func:`fitting_shape`.
        divisor: the model's ``pad_size_divisor``.
        channels_last: memory order of the images.

    Returns:
        ``inputs``, u8 [B, 3, H, W], and ``data_samples``, a :class:`PaddedObjects`.
    """
    images: list[Tensor] = [item["inputs"] for item in batch]
    sizes = [(image.size(-2), image.size(-1)) for image in images]
    height, width = fitting_shape(sizes, shapes, divisor)
    order = torch.channels_last if channels_last else torch.contiguous_format
    padded = torch.empty((len(images), 3, height, width), dtype=images[0].dtype, memory_format=order).zero_()
    for place, image, (rows, columns) in zip(padded, images, sizes, strict=True):
        place[:, :rows, :columns] = image
    samples = [item["data_samples"] for item in batch]
    truth = [sample.gt_instances for sample in samples]
    objects = PaddedObjects.gather(
        [get_box_tensor(instances.bboxes) for instances in truth],
        [instances.labels for instances in truth],
        [_ignored(sample) for sample in samples],
        sizes,
        divisor,
        [DetDataSample(metainfo=sample.metainfo) for sample in samples],
    )
    return {"inputs": padded, "data_samples": objects}


def _ignored(sample: DetDataSample) -> Tensor:
    instances = sample.get("ignored_instances")
    return torch.zeros(0, 4) if instances is None else get_box_tensor(instances.bboxes)


@DATA_SAMPLERS.register_module()
class ShapeBatchSampler:
    """Full batches of images of one shape each, the same for any number of ranks.

    Images are taken in the order of ``sampler``. A batch of all ranks together is complete when there are enough images
    of one shape. Every image is used in every epoch. The last batch of a shape is filled with images from the beginning
    of the epoch (as DefaultSampler fills the last ranks), so the batch size never changes.

    Args:
        sampler: mmengine's DefaultSampler, or any sampler in a single process.
        batch_size: images per rank.
        drop_last: drop incomplete batches instead of filling them.
        scale: (long, short) px into which images are resized with their aspect ratio kept. If given, images are grouped
            by the one of ``shapes`` that they need; otherwise by orientation, portrait or not.
        shapes: as in :func:`fixed_shape_collate`.
    """

    def __init__(
        self,
        sampler: Any,
        batch_size: int,
        drop_last: bool = False,
        scale: tuple[int, int] | None = None,
        shapes: Sequence[Shape] = (),
    ) -> None:
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last
        self.ranks, self.rank = getattr(sampler, "world_size", 1), getattr(sampler, "rank", 0)
        dataset = sampler.dataset
        infos = (dataset.get_data_info(index) for index in range(len(dataset)))
        self.groups = [_group(info["height"], info["width"], scale, shapes) for info in infos]

    def __len__(self) -> int:
        together = self.batch_size * self.ranks
        counts = Counter(self.groups).values()
        return sum(count // together if self.drop_last else math.ceil(count / together) for count in counts)

    def __iter__(self) -> Iterator[list[int]]:
        together = self.batch_size * self.ranks
        waiting: dict[Hashable, list[int]] = defaultdict(list)
        early: dict[Hashable, list[int]] = defaultdict(list)
        for index in self._order():
            group = self.groups[index]
            waiting[group].append(index)
            if len(early[group]) < together:
                early[group].append(index)
            if len(waiting[group]) == together:
                yield self._own(waiting.pop(group))
        if not self.drop_last:
            for group, rest in waiting.items():
                yield self._own(list(islice(chain(rest, cycle(early[group])), together)))

    def _order(self) -> Iterator[int]:
        """The images of all ranks in the order of this epoch."""
        if self.ranks == 1:
            return iter(self.sampler)
        alone = copy.copy(self.sampler)
        alone.rank, alone.world_size = 0, 1
        alone.num_samples = alone.total_size = len(self.groups)
        return iter(alone)

    def _own(self, batch: list[int]) -> list[int]:
        return batch[self.rank :: self.ranks]


def _group(rows: int, columns: int, scale: tuple[int, int] | None, shapes: Sequence[Shape]) -> Hashable:
    if scale is None or not shapes:
        return rows > columns
    factor = min(max(scale) / max(rows, columns), min(scale) / min(rows, columns))
    return fitting_shape([(int(rows * factor + 0.5), int(columns * factor + 0.5))], shapes, 1)
