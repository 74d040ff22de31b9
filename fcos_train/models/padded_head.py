"""The contract of heads with fixed shapes, which take :class:`PaddedObjects` beside mmdet's list of samples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor

from fcos_train.geometry.padded import PaddedObjects
from fcos_train.geometry.points import LevelSpec, PointGrid, point_grid
from fcos_train.models.fast import towers
from fcos_train.models.fast.towers import Convolve


class FixedShapeHead(BaseDenseHead):
    """A dense head whose loss is one tensor program: no shape depends on the data, and nothing returns to the host.

    This is a mixin in front of a head of mmdet with two towers, ``cls_convs`` and ``reg_convs``. A further head

    1. is a class ``FixedShapeXHead(FixedShapeHead, HasLevelNorms, XHead)``, registered in ``MODELS`` and listed in
       :data:`fcos_train.models.fixed_shape_heads.FIXED_SHAPE`;
    2. sets :attr:`level_spec` in its constructor, which raises UserError for options without a fixed-shape form;
    3. implements :meth:`predictions` and :meth:`loss_of_objects`;
    4. overrides ``loss_by_feat``, with the signature of mmdet, by a call of :meth:`loss_of_instances`.

    Parameters, checkpoints and predictions at test time remain those of the head of mmdet.

    Attributes:
        level_spec: strides, offset and ranges of the points.
        merge_levels: run the towers over all levels at once in training; only if
            :func:`fcos_train.models.fast.towers.can_merge` them.
    """

    level_spec: LevelSpec
    merge_levels: bool = False

    @abstractmethod
    def predictions(self, level: Tensor, convolve: Convolve, cls_feat: Tensor, reg_feat: Tensor) -> tuple[Tensor, ...]:
        """What ``forward`` does after the towers, for N points of any levels at once.

        Args:
            level: [N] i64, the level of each point.
            convolve: ``convolve(layer, feature)`` applies a prediction layer -> [B, K, N].
            cls_feat, reg_feat: features of the two towers, to be passed to ``convolve`` only.
        Returns:
            each prediction as [B, K, N], in the order of ``forward``.
        """

    @abstractmethod
    def loss_of_objects(self, grid: PointGrid, outs: tuple[Tensor, ...], objects: PaddedObjects) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            grid: the P points.
            outs: each prediction at these points, [B, K, P], in the order of ``forward``.
            objects: the ground truth.
        Returns:
            0-d f32 tensors on the device; those whose name contains "loss" are summed up.
        """

    def loss(self, x: Sequence[Tensor], batch_data_samples: Any) -> dict[str, Tensor]:
        """Losses of features [B, C, H, W] of each level, for :class:`PaddedObjects` or mmdet's list of samples."""
        if not isinstance(batch_data_samples, PaddedObjects):
            return super().loss(x, batch_data_samples)
        grid, outs = towers.run(self, x)
        with torch.autocast(x[0].device.type, enabled=False):
            return self.loss_of_objects(grid, outs, batch_data_samples)

    def loss_of_instances(
        self,
        outs: Sequence[Sequence[Tensor]],
        instances: Sequence[Any],
        metas: Sequence[dict],
        ignored: Sequence[Any] | None = None,
    ) -> dict[str, Tensor]:
        """:meth:`loss_of_objects` for the arguments of mmdet's ``loss_by_feat``.

        Args:
            outs: maps [B, K, H, W] of each level, for each prediction.
            instances, metas: boxes and labels, and the ``pad_shape``, of each image.
            ignored: regions of each image that have no loss; None, or None for an image, if there are none.
        """
        boxes = [get_box_tensor(own.bboxes) for own in instances]
        none = boxes[0].new_zeros(0, 4)
        objects = PaddedObjects.gather(
            boxes,
            [own.labels for own in instances],
            [none if own is None else get_box_tensor(own.bboxes) for own in ignored or ()],
            [meta["pad_shape"][:2] for meta in metas],
        )
        return self.loss_of_objects(*towers.by_levels(self, outs), objects)

    def grid(self, sizes: Sequence[Sequence[int]], device: torch.device) -> PointGrid:
        """The points of maps of these (rows, columns); cached."""
        return point_grid(tuple((int(h), int(w)) for h, w in sizes), self.level_spec, device)
