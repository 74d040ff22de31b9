"""FSAF's head with losses of fixed shape: the same parameters, checkpoints and predictions as mmdet's FSAFHead."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.models.dense_heads import FSAFHead
from mmdet.models.task_modules.assigners import CenterRegionAssigner
from mmdet.models.task_modules.coders import TBLRBBoxCoder
from mmdet.registry import MODELS
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor

from fcos_train.geometry.assignment import FsafTargets, fsaf_targets
from fcos_train.geometry.boxes import pad_objects
from fcos_train.geometry.padded import PaddedObjects
from fcos_train.geometry.points import LevelSpec, PointGrid, point_grid
from fcos_train.models.level_norm import HasLevelNorms
from fcos_train.models.losses import attach, box_loss, check_focal, corner_loss, focal_loss, own_class
from fcos_train.models.padded_head import Convolve, TakesPaddedObjects
from mmcv_overrides.errors import UserError

_UNSEEN = 1e6  # loss of an object on a level where it owns no point (mmdet's value)


@MODELS.register_module()
class StaticFSAFHead(TakesPaddedObjects, HasLevelNorms, FSAFHead):
    """FSAFHead whose loss, online choice of levels included, is one tensor program without host syncs.

    Arguments, state_dict and predictions are FSAFHead's, but BatchNorm in the towers is per level. ``loss_cls`` and ``loss_bbox`` are sums over the levels.

    Raises:
        UserError: an option without a fixed-shape form.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        check_focal(self.loss_cls, "FSAFHead")
        if self.train_cfg:
            self._check_options()
        self._box_loss = box_loss(self.loss_bbox)
        self._level_spec = LevelSpec(strides=tuple(x for x, _ in self.prior_generator.strides), offset=0.0)
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
            raise UserError(f"StaticFSAFHead needs {'; '.join(missing)}: change it, or use type='FSAFHead' (slower)")

    def grid(self, sizes: Sequence[Sequence[int]], device: torch.device) -> PointGrid:
        """Points for maps of these (rows, columns), made once."""
        return point_grid(tuple((int(h), int(w)) for h, w in sizes), self._level_spec, device)

    def loss_by_feat(
        self, cls_scores, bbox_preds, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore=None
    ) -> dict[str, Tensor]:
        """mmdet's signature: pads the lists of instances, then :meth:`loss_by_padded`."""
        device = cls_scores[0].device
        padded = pad_objects(
            [get_box_tensor(instances.bboxes) for instances in batch_gt_instances],
            [instances.labels for instances in batch_gt_instances],
        )
        ignore = None
        if batch_gt_instances_ignore is not None:
            none = padded[0].new_zeros((0, 4))
            regions = [
                none if instances is None else get_box_tensor(instances.bboxes)
                for instances in batch_gt_instances_ignore
            ]
            ignored_boxes, _, ignored_count = pad_objects(
                regions, [region.new_zeros(len(region)) for region in regions]
            )
            ignore = (ignored_boxes, ignored_count)
        pad_shapes = [meta["pad_shape"][:2] for meta in batch_img_metas]
        return self.loss_by_padded(
            cls_scores,
            bbox_preds,
            *padded,
            padded_size=torch.tensor(pad_shapes, device=device),
            ignore=ignore,
        )

    def loss_of_objects(self, grid: PointGrid, outs: tuple, objects: PaddedObjects) -> dict[str, Tensor]:
        """Losses of merged predictions."""
        padded = objects.boxes, objects.labels, objects.count
        return self.loss_by_points(grid, *outs, *padded, padded_size=objects.padded_size, ignore=objects.ignore)

    def predictions(
        self, level: Tensor, convolve: Convolve, cls_feat: Tensor, reg_feat: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits and sides."""
        return convolve(self.retina_cls, cls_feat), self.relu(convolve(self.retina_reg, reg_feat))

    def loss_by_padded(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        boxes: Tensor,
        labels: Tensor,
        count: Tensor,
        padded_size: Tensor | None = None,
        ignore: tuple[Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch with padded objects.

        Args:
            cls_scores, bbox_preds: maps of each level, [B, C, H, W] and [B, 4, H, W], as :meth:`forward` gives them.
            boxes: [B, G, 4] xyxy in px of the input. labels: [B, G] i64. count: [B] i64, at most G.
            padded_size: [B, 2] (height, width) in px beyond which points have no loss (mmdet's ``pad_shape``), or None.
            ignore: padded regions without loss ([B, I, 4] px, [B] count), or None.
        Returns:
            loss_cls, loss_bbox; and for the log num_pos (per image) and pos_recall (per cent). 0-d f32.
        """
        grid, outs = self.points_of_levels((cls_scores, bbox_preds))
        return self.loss_by_points(grid, *outs, boxes, labels, count, padded_size, ignore)

    def loss_by_points(
        self,
        grid: PointGrid,
        logits: Tensor,
        sides: Tensor,
        boxes: Tensor,
        labels: Tensor,
        count: Tensor,
        padded_size: Tensor | None = None,
        ignore: tuple[Tensor, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """The same for levels already merged: logits [B, C, P], sides [B, 4, P] (top, bottom, left, right)."""
        with torch.no_grad():
            targets = self._targets(grid, boxes, labels, count, padded_size, ignore)
            foreground = targets.foreground
            weight = targets.counted.float()
            if self.train_cfg["pos_weight"] > 0:
                weight = torch.where(foreground, weight * self.train_cfg["pos_weight"], weight)
            own = own_class(targets.labels, self.num_classes)
            scores = logits.float()
            entry, by_logits = focal_loss(scores, own, self.loss_cls.gamma, self.loss_cls.alpha, targets.silenced)
            rows = entry.sum(1) * weight
        box, by_sides = self._box_losses(grid, sides, targets)
        with torch.no_grad():
            weighted = self._times(rows, self.loss_cls.loss_weight) + self._times(
                box.detach(), self.loss_bbox.loss_weight
            )
            chosen = self._choose_levels(grid, weighted, targets, boxes.shape[1])
            # a positive that is not chosen loses its box and the entry of its own class
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
            "num_pos": positives / len(count),
            "pos_recall": self._recall(scores, own, chosen, positives),
        }

    @staticmethod
    def _times(values: Tensor, weight: float) -> Tensor:
        return values if weight == 1 else values * weight

    def _targets(self, grid, boxes, labels, count, padded_size, ignore) -> FsafTargets:
        counted = None
        if padded_size is not None:
            counted = (grid.xy < padded_size.flip(1).unsqueeze(2)).all(1)
        if grid.real is not None:
            real = grid.real.bool().expand(len(boxes), -1)
            counted = real if counted is None else counted & real
        rule = self.assigner
        return fsaf_targets(
            grid,
            boxes,
            labels,
            count,
            self.num_classes,
            positive=rule.pos_scale,
            negative=rule.neg_scale,
            least_cover=rule.min_pos_iof,
            foreground_first=rule.foreground_dominate,
            counted=counted,
            ignore=ignore,
            ignore_scale=rule.ignore_gt_scale,
        )

    def _box_losses(self, grid: PointGrid, sides: Tensor, targets: FsafTargets) -> tuple[Tensor, Tensor | None]:
        """Loss [B, P], meaningless where background, and its derivative by ``sides`` (None: autograd has it)."""
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
        """[B, P] bool: positives on the level where the mean loss of their object is least (FSAF, eq. 3)."""
        levels, images = grid.num_levels, len(loss)
        weight = targets.foreground.float()
        place = grid.level * objects + targets.objects
        sums = loss.new_zeros((2, images, levels * objects))
        sums = sums.scatter_add(2, place.expand(2, -1, -1), torch.stack((loss * weight, weight)))
        total, owned = sums.unflatten(2, (levels, objects))
        mean = torch.where(owned > 0, total / owned.clamp(min=1.0), _UNSEEN)
        best = mean.argmin(1).gather(1, targets.objects)
        return targets.foreground & (best == grid.level)

    @torch.no_grad()
    def _recall(self, logits: Tensor, own: Tensor, chosen: Tensor, positives: Tensor) -> Tensor:
        """Per cent of the positives whose own class has the highest score (and at least ``score_threshold``)."""
        best = logits.amax(1)
        right = chosen & ((logits >= best.unsqueeze(1)) & own).any(1)
        if self.score_threshold is not None:
            right = right & (best.sigmoid() > self.score_threshold)
        return right.sum(dtype=torch.float32) * 100 / positives.clamp(min=1.0)
