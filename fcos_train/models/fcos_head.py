"""The FCOS head with a fixed-shape loss: parameters, checkpoints and predictions are those of mmdet's FCOSHead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.dense_heads import FCOSHead
from mmdet.registry import MODELS
from torch import Tensor

from fcos_train.geometry.assignment import FcosTargets, fcos_targets
from fcos_train.geometry.iou import centerness
from fcos_train.geometry.padded import PaddedObjects
from fcos_train.geometry.points import LevelSpec, PointGrid
from fcos_train.models.fast.towers import Convolve
from fcos_train.models.level_norm import HasLevelNorms
from fcos_train.models.losses import (
    EPS,
    attach,
    binary_cross_entropy,
    box_loss,
    check_focal,
    corner_loss,
    focal_loss,
    own_class,
    reduce_mean,
)
from fcos_train.models.padded_head import FixedShapeHead
from mmcv_overrides.errors import UserError


@MODELS.register_module(name=["FixedShapeFCOSHead", "StaticFCOSHead"])  # the second name is in older configs
class FixedShapeFCOSHead(FixedShapeHead, HasLevelNorms, FCOSHead):
    """FCOSHead whose loss is one tensor program: no shape depends on the data, and nothing returns to the host.

    Arguments, state_dict and predictions are those of FCOSHead, except that BatchNorm in the towers is per level.
    Covered: FocalLoss; any box loss on corner boxes; binary cross-entropy for the centerness; every flag of FCOSHead.

    Raises:
        UserError: a loss without a fixed-shape form, or strides that differ in x and y.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_focal(self.loss_cls, "FCOSHead")
        centerness_loss = self.loss_centerness
        if not getattr(centerness_loss, "use_sigmoid", False) or centerness_loss.class_weight is not None:
            raise UserError(
                "FixedShapeFCOSHead covers loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True) without "
                "class_weight: change it, or use type='FCOSHead' (any loss, slower)"
            )
        strides = self.prior_generator.strides
        if any(x != y for x, y in strides):
            raise UserError(f"FixedShapeFCOSHead needs strides equal in x and y, got {strides}")
        self._box_loss = box_loss(self.loss_bbox)
        self.level_spec = LevelSpec(
            strides=tuple(x for x, _ in strides),
            offset=self.prior_generator.offset,
            ranges=tuple((low, high) for low, high in self.regress_ranges),
            radius=self.center_sample_radius if self.center_sampling else None,
        )

    def loss_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        centernesses: Sequence[Tensor],
        batch_gt_instances: Sequence[Any],
        batch_img_metas: Sequence[dict],
        batch_gt_instances_ignore: Sequence[Any] | None = None,
    ) -> dict[str, Tensor]:
        """As in mmdet: maps [B, K, H, W] of each level and lists of instances. Ignored instances have no effect."""
        outs = (cls_scores, bbox_preds, centernesses)
        return self.loss_of_instances(outs, batch_gt_instances, batch_img_metas)

    def predictions(self, level: Tensor, convolve: Convolve, cls_feat: Tensor, reg_feat: Tensor) -> tuple[Tensor, ...]:
        """Logits [B, C, N], sides [B, 4, N] (left, top, right, bottom) and centers [B, 1, N]."""
        centers = convolve(self.conv_centerness, reg_feat if self.centerness_on_reg else cls_feat)
        scales = torch.stack([scale.scale for scale in self.scales]).index_select(0, level)
        sides = (convolve(self.conv_reg, reg_feat) * scales).float()
        sides = sides.clamp(min=0) if self.norm_on_bbox else sides.exp()
        return convolve(self.conv_cls, cls_feat), sides, centers

    def loss_of_objects(self, grid: PointGrid, outs: tuple[Tensor, ...], objects: PaddedObjects) -> dict[str, Tensor]:
        """loss_cls, loss_bbox and loss_centerness for logits [B, C, P], sides [B, 4, P] and centers [B, 1, P]."""
        logits, sides, centers = outs
        with torch.no_grad():
            targets = fcos_targets(
                grid, objects.boxes, objects.labels, objects.count, self.num_classes, self.norm_on_bbox
            )
            foreground = targets.foreground.float()
            weight = centerness(targets.distances)
            box_weight = weight * foreground
            positives, mass = reduce_mean(torch.stack((foreground, box_weight)).sum((1, 2))).unbind()
            positives = positives.clamp(min=1.0)
            mass = mass.clamp(min=1e-6) + EPS

            own = own_class(targets.labels, self.num_classes)
            entry, by_logits = focal_loss(
                logits.float(), own, self.loss_cls.gamma, self.loss_cls.alpha, weight=grid.real
            )
            center_logits = centers.float().squeeze(1)
            center, by_center = binary_cross_entropy(center_logits, weight)
            by_center = (by_center * foreground).unsqueeze(1)
        return {
            "loss_cls": attach(logits, entry, by_logits, positives, self.loss_cls.loss_weight),
            "loss_bbox": self._loss_bbox(grid, sides, targets, box_weight, mass),
            "loss_centerness": attach(
                centers, center * foreground, by_center, positives, self.loss_centerness.loss_weight
            ),
        }

    def _loss_bbox(self, grid: PointGrid, sides: Tensor, targets: FcosTargets, weight: Tensor, mass: Tensor) -> Tensor:
        """Mean over the positives, weighted by centerness, 0-d. The prediction of a background point is replaced by its
        target, so that an overflow there cannot reach the sum."""
        distances, mask = targets.distances, targets.foreground[:, None, None]
        if self._box_loss is None:
            pred = torch.where(mask, sides.float().unflatten(1, (2, 2)), distances)
            rows = corner_loss(self.loss_bbox, pred, distances, grid.xy) * weight
            return rows.sum() / mass * self.loss_bbox.loss_weight
        with torch.no_grad():
            pred = torch.where(mask, sides.float().unflatten(1, (2, 2)), distances)
            loss, by_pred = self._box_loss(pred, distances)
            by_sides = (by_pred * weight[:, None, None]).flatten(1, 2)
        return attach(sides, loss * weight, by_sides, mass, self.loss_bbox.loss_weight)
