"""The FSAF head with a fixed-shape loss: parameters, checkpoints and predictions are those of mmdet's FSAFHead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.dense_heads import FSAFHead
from mmdet.models.task_modules.assigners import CenterRegionAssigner
from mmdet.models.task_modules.coders import TBLRBBoxCoder
from mmdet.registry import MODELS
from torch import Tensor

from fcos_train.geometry.assignment import FsafTargets, fsaf_targets
from fcos_train.geometry.padded import PaddedObjects
from fcos_train.geometry.points import LevelSpec, PointGrid
from fcos_train.models.fast.towers import Convolve
from fcos_train.models.level_norm import HasLevelNorms
from fcos_train.models.losses import attach, box_loss, check_focal, corner_loss, focal_loss, own_class
from fcos_train.models.padded_head import FixedShapeHead
from mmcv_overrides.errors import UserError

_NO_POINT = 1e6  # loss of an object on a level where it has no positive point (mmdet's value)


@MODELS.register_module(name=["FixedShapeFSAFHead", "StaticFSAFHead"])  # the second name is in older configs
class FixedShapeFSAFHead(FixedShapeHead, HasLevelNorms, FSAFHead):
    """FSAFHead whose loss, including the online selection of levels, is one tensor program without host syncs.

    Arguments, state_dict and predictions are those of FSAFHead, except that BatchNorm in the towers is per level.
    ``loss_cls`` and ``loss_bbox`` are sums over the levels.

    Raises:
        UserError: an option without a fixed-shape form.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_focal(self.loss_cls, "FSAFHead")
        if self.train_cfg:
            self._check_options()
        self._box_loss = box_loss(self.loss_bbox)
        self.level_spec = LevelSpec(strides=tuple(x for x, _ in self.prior_generator.strides), offset=0.0)
        normalizer = self.bbox_coder.normalizer
        factors = [float(normalizer)] * 4 if isinstance(normalizer, (int, float)) else list(normalizer)
        self.register_buffer("_side_factors", torch.tensor(factors).view(1, 4, 1), persistent=False)

    def _check_options(self) -> None:
        cells = [[-x / 2, -x / 2, x / 2, x / 2] for x, _ in self.prior_generator.strides]
        anchors = [anchor.tolist() for anchor in self.prior_generator.base_anchors]
        faults = [
            (anchors != [[cell] for cell in cells], "one square anchor of one stride for each point"),
            (not isinstance(self.bbox_coder, TBLRBBoxCoder), "bbox_coder=dict(type='TBLRBBoxCoder')"),
            (not self.reg_decoded_bbox, "reg_decoded_bbox=True"),
            (not isinstance(self.assigner, CenterRegionAssigner), "the assigner CenterRegionAssigner"),
            (self.train_cfg["allowed_border"] >= 0, "train_cfg.allowed_border=-1"),
            (not self.use_sigmoid_cls, "loss_cls.use_sigmoid=True"),
        ]
        missing = [need for fault, need in faults if fault]
        if missing:
            raise UserError(
                f"FixedShapeFSAFHead needs {'; '.join(missing)}: change it, or use type='FSAFHead' (slower)"
            )

    def loss_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        batch_gt_instances: Sequence[Any],
        batch_img_metas: Sequence[dict],
        batch_gt_instances_ignore: Sequence[Any] | None = None,
    ) -> dict[str, Tensor]:
        """As in mmdet: maps [B, K, H, W] of each level and lists of instances."""
        outs = (cls_scores, bbox_preds)
        return self.loss_of_instances(outs, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore)

    def predictions(self, level: Tensor, convolve: Convolve, cls_feat: Tensor, reg_feat: Tensor) -> tuple[Tensor, ...]:
        """Logits [B, C, N] and sides [B, 4, N] (top, bottom, left, right)."""
        return convolve(self.retina_cls, cls_feat), self.relu(convolve(self.retina_reg, reg_feat))

    def loss_of_objects(self, grid: PointGrid, outs: tuple[Tensor, ...], objects: PaddedObjects) -> dict[str, Tensor]:
        """loss_cls and loss_bbox for logits [B, C, P] and sides [B, 4, P]; for the log, num_pos (positives per image)
        and pos_recall (per cent)."""
        logits, sides = outs
        with torch.no_grad():
            targets = self._targets(grid, objects)
            foreground = targets.foreground
            weight = targets.counted.float()
            if self.train_cfg["pos_weight"] > 0:
                weight = torch.where(foreground, weight * self.train_cfg["pos_weight"], weight)
            own = own_class(targets.labels, self.num_classes)
            scores = logits.float()
            entry, by_logits = focal_loss(scores, own, self.loss_cls.gamma, self.loss_cls.alpha, targets.ignored)
            rows = entry.sum(1) * weight
        box, by_sides = self._box_losses(grid, sides, targets)
        with torch.no_grad():
            weighted = self._times(rows, self.loss_cls.loss_weight) + self._times(
                box.detach(), self.loss_bbox.loss_weight
            )
            chosen = self._choose_levels(grid, weighted, targets, objects.places)
            # a positive that is not chosen keeps neither its box loss nor the entry of its own class
            dropped = own & (foreground & ~chosen).unsqueeze(1)
            rows = rows - entry.mul_(dropped).sum(1) * weight
            by_logits = by_logits.masked_fill_(dropped, 0.0).mul_(weight.unsqueeze(1))
            positives = chosen.sum(dtype=torch.float32)
            backgrounds = (targets.counted & ~foreground).sum(dtype=torch.float32)
            average = torch.where(positives > 0, positives, backgrounds).clamp(min=1.0)
        if by_sides is None:
            loss_bbox = (box * chosen).sum() / average * self.loss_bbox.loss_weight
        else:
            by_sides = by_sides.mul_(chosen.unsqueeze(1))
            loss_bbox = attach(sides, box * chosen, by_sides, average, self.loss_bbox.loss_weight)
        return {
            "loss_cls": attach(logits, rows, by_logits, average, self.loss_cls.loss_weight),
            "loss_bbox": loss_bbox,
            "num_pos": positives / len(objects),
            "pos_recall": self._recall(scores, own, chosen, positives),
        }

    @staticmethod
    def _times(values: Tensor, weight: float) -> Tensor:
        return values if weight == 1 else values * weight

    def _targets(self, grid: PointGrid, objects: PaddedObjects) -> FsafTargets:
        """Points beyond the padded size of an image (mmdet's ``pad_shape``) have no loss, nor has a canvas's border."""
        counted = (grid.xy < objects.padded_size.flip(1).unsqueeze(2)).all(1)
        if grid.real is not None:
            counted = counted & grid.real.bool().expand(len(objects), -1)
        rule = self.assigner
        return fsaf_targets(
            grid,
            objects.boxes,
            objects.labels,
            objects.count,
            self.num_classes,
            positive=rule.pos_scale,
            negative=rule.neg_scale,
            least_cover=rule.min_pos_iof,
            foreground_first=rule.foreground_dominate,
            counted=counted,
            ignore=objects.ignore,
            ignore_scale=rule.ignore_gt_scale,
        )

    def _box_losses(self, grid: PointGrid, sides: Tensor, targets: FsafTargets) -> tuple[Tensor, Tensor | None]:
        """Loss [B, P], undefined for background, and its derivative by ``sides`` [B, 4, P]; None: by autograd."""
        mask = targets.foreground[:, None, None]
        scale = self._side_factors * grid.stride  # [1, 4, P]
        if self._box_loss is None:
            # (top, bottom, left, right) -> (near, far) x (x, y)
            pred = (sides.float().clamp(min=1e-4) * scale).unflatten(1, (2, 2)).flip(1).transpose(1, 2)
            pred = torch.where(mask, pred, targets.distances)
            return corner_loss(self.loss_bbox, pred, targets.distances, grid.xy), None
        with torch.no_grad():
            raw = sides.float()
            pred = (raw.clamp(min=1e-4) * scale).unflatten(1, (2, 2)).transpose(1, 2)  # (near, far) x (y, x)
            distances = targets.distances.flip(2)
            loss, by_pred = self._box_loss(torch.where(mask, pred, distances), distances)
            return loss, (by_pred.transpose(1, 2).flatten(1, 2) * scale).mul_(raw >= 1e-4)

    @staticmethod
    def _choose_levels(grid: PointGrid, loss: Tensor, targets: FsafTargets, objects: int) -> Tensor:
        """[B, P] bool: the positives on the level with the lowest mean loss of their object (FSAF, eq. 3)."""
        levels, images = grid.num_levels, len(loss)
        weight = targets.foreground.float()
        place = grid.level * objects + targets.objects
        sums = loss.new_zeros((2, images, levels * objects))
        sums = sums.scatter_add(2, place.expand(2, -1, -1), torch.stack((loss * weight, weight)))
        total, owned = sums.unflatten(2, (levels, objects))
        mean = torch.where(owned > 0, total / owned.clamp(min=1.0), _NO_POINT)
        best = mean.argmin(1).gather(1, targets.objects)
        return targets.foreground & (best == grid.level)

    @torch.no_grad()
    def _recall(self, logits: Tensor, own: Tensor, chosen: Tensor, positives: Tensor) -> Tensor:
        """0-d, per cent of the positives whose own class has the highest score, above ``score_threshold`` if set."""
        best = logits.amax(1)
        right = chosen & ((logits >= best.unsqueeze(1)) & own).any(1)
        if self.score_threshold is not None:
            right = right & (best.sigmoid() > self.score_threshold)
        return right.sum(dtype=torch.float32) * 100 / positives.clamp(min=1.0)
