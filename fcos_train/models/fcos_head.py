"""FCOS's head with losses of fixed shape: the same parameters, checkpoints and predictions as mmdet's FCOSHead."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.models.dense_heads import FCOSHead
from mmdet.registry import MODELS
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor

from fcos_train.geometry.assignment import FcosTargets, fcos_targets
from fcos_train.geometry.boxes import pad_objects
from fcos_train.geometry.iou import centerness
from fcos_train.geometry.padded import PaddedObjects
from fcos_train.geometry.points import LevelSpec, PointGrid, point_grid
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
from fcos_train.models.padded_head import Convolve, TakesPaddedObjects
from mmcv_overrides.errors import UserError


@MODELS.register_module()
class StaticFCOSHead(TakesPaddedObjects, HasLevelNorms, FCOSHead):
    """FCOSHead whose loss is one tensor program: no shape depends on the data, nothing returns to the host.

    Arguments, state_dict and predictions are FCOSHead's, but BatchNorm in the towers is per level. Covered: FocalLoss; any box loss on corner boxes; binary
    cross-entropy for the centerness; every flag of FCOSHead.

    Raises:
        UserError: a loss without a fixed-shape form, or strides that differ in x and y.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        check_focal(self.loss_cls, "FCOSHead")
        centerness_loss = self.loss_centerness
        if not getattr(centerness_loss, "use_sigmoid", False) or centerness_loss.class_weight is not None:
            raise UserError(
                "StaticFCOSHead covers loss_centerness=dict(type='CrossEntropyLoss', use_sigmoid=True) without "
                "class_weight: change it, or use type='FCOSHead' (any loss, slower)"
            )
        strides = self.prior_generator.strides
        if any(x != y for x, y in strides):
            raise UserError(f"StaticFCOSHead needs strides equal in x and y, got {strides}")
        self._box_loss = box_loss(self.loss_bbox)
        self._level_spec = LevelSpec(
            strides=tuple(x for x, _ in strides),
            offset=self.prior_generator.offset,
            ranges=tuple((low, high) for low, high in self.regress_ranges),
            radius=self.center_sample_radius if self.center_sampling else None,
        )

    def grid(self, sizes: Sequence[Sequence[int]], device: torch.device) -> PointGrid:
        """Points for maps of these (rows, columns), made once."""
        return point_grid(tuple((int(h), int(w)) for h, w in sizes), self._level_spec, device)

    def loss_by_feat(
        self,
        cls_scores,
        bbox_preds,
        centernesses,
        batch_gt_instances,
        batch_img_metas,
        batch_gt_instances_ignore=None,
    ) -> dict[str, Tensor]:
        """mmdet's signature: pads the lists of instances, then :meth:`loss_by_padded`. Ignored ones have no effect."""
        padded = pad_objects(
            [get_box_tensor(instances.bboxes) for instances in batch_gt_instances],
            [instances.labels for instances in batch_gt_instances],
        )
        return self.loss_by_padded(cls_scores, bbox_preds, centernesses, *padded)

    def loss_of_objects(self, grid: PointGrid, outs: tuple, objects: PaddedObjects) -> dict[str, Tensor]:
        """Losses of merged predictions."""
        return self.loss_by_points(grid, *outs, objects.boxes, objects.labels, objects.count)

    def predictions(
        self, level: Tensor, convolve: Convolve, cls_feat: Tensor, reg_feat: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, sides and centers."""
        centers = convolve(self.conv_centerness, reg_feat if self.centerness_on_reg else cls_feat)
        scales = torch.stack([scale.scale for scale in self.scales]).index_select(0, level)
        sides = (convolve(self.conv_reg, reg_feat) * scales).float()
        sides = sides.clamp(min=0) if self.norm_on_bbox else sides.exp()
        return convolve(self.conv_cls, cls_feat), sides, centers

    def loss_by_padded(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        centernesses: Sequence[Tensor],
        boxes: Tensor,
        labels: Tensor,
        count: Tensor,
    ) -> dict[str, Tensor]:
        """Losses of a batch with padded objects.

        Args:
            cls_scores, bbox_preds, centernesses: maps of each level, [B, C, H, W], [B, 4, H, W], [B, 1, H, W],
                as :meth:`forward` gives them.
            boxes: [B, G, 4] xyxy in px of the input. labels: [B, G] i64. count: [B] i64, at most G.
        Returns:
            loss_cls, loss_bbox, loss_centerness: 0-d f32 on the device.
        """
        grid, outs = self.points_of_levels((cls_scores, bbox_preds, centernesses))
        return self.loss_by_points(grid, *outs, boxes, labels, count)

    def loss_by_points(
        self,
        grid: PointGrid,
        logits: Tensor,
        sides: Tensor,
        centers: Tensor,
        boxes: Tensor,
        labels: Tensor,
        count: Tensor,
    ) -> dict[str, Tensor]:
        """The same for levels already merged: logits [B, C, P], sides [B, 4, P], centers [B, 1, P]."""
        with torch.no_grad():
            targets = fcos_targets(grid, boxes, labels, count, self.num_classes, self.norm_on_bbox)
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
        """Mean over the positives, weighted by centerness. Background points predict their own target, so that an
        overflow there cannot reach the sum."""
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
