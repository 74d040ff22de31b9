"""Moves a batch of fixed shape to the device and normalises it there."""

from __future__ import annotations

import torch
from mmdet.models import DetDataPreprocessor
from mmdet.registry import MODELS
from torch import Tensor

from fcos_train.geometry.padded import PaddedObjects


@MODELS.register_module()
class FixedShapePreprocessor(DetDataPreprocessor):
    """DetDataPreprocessor that also takes uint8 images of fixed shape with :class:`PaddedObjects`.

    It makes two copies to the device (images, objects) and normalises there. Pixels beyond an image are ``pad_value``
    afterwards, as in mmdet. Lists of images, as at test time, are processed by mmdet.
    """

    def forward(self, data: dict, training: bool = False) -> dict:
        """A batch from the loader -> ``inputs`` f32 [B, 3, H, W] and ``data_samples`` on the device."""
        objects = data.get("data_samples")
        if not isinstance(objects, PaddedObjects):
            return super().forward(data, training)
        images = data["inputs"].to(self.device, non_blocking=True)
        objects = objects.moved(lambda table: table.to(self.device, non_blocking=True))
        return {"inputs": self.normalise(images, objects.image_size), "data_samples": objects}

    def normalise(self, images: Tensor, sizes: Tensor) -> Tensor:
        """Images u8 [B, 3, H, W] and their sizes [B, 2] (rows, columns) in px -> f32 [B, 3, H, W]."""
        if self._channel_conversion:
            images = images.flip(1)
        images = images.float()
        if self._enable_normalize:
            images = images.sub_(self.mean).div_(self.std)
        rows = torch.arange(images.shape[2], device=images.device) < sizes[:, :1]
        columns = torch.arange(images.shape[3], device=images.device) < sizes[:, 1:]
        outside = ~(rows[:, None, :, None] & columns[:, None, None, :])
        return images.masked_fill_(outside, self.pad_value)
