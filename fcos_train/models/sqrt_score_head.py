"""FCOS heads of other packages: another score, another place of the points."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mmdet.models.dense_heads import FCOSHead
from mmdet.registry import MODELS
from torch import Tensor

from fcos_train.models.fcos_head import FixedShapeFCOSHead
from fcos_train.models.level_norm import HasLevelNorms
from mmcv_overrides.errors import UserError

THRESHOLDS = ("cls", "score")


class SqrtScore(FCOSHead):
    """Mixin for an FCOS head whose score is sqrt(class probability x centerness), as in AdelaiDet, detectron2 and
    torchvision.

    Parameters and losses are those of FCOSHead. Both scores rank boxes alike, so NMS keeps the same ones.

    Args:
        threshold_on: ``cls``: the class probability must exceed ``score_thr`` (AdelaiDet); ``score``: the score must
            (detectron2, torchvision).
        point_offset: position of the first point in strides: 0.5, or 0 in torchvision.
        others: arguments of FCOSHead.

    Raises:
        UserError: another ``threshold_on``.
    """

    sqrt_score = True

    def __init__(self, *args: Any, threshold_on: str = "cls", point_offset: float = 0.5, **others: Any) -> None:
        super().__init__(*args, **others)
        if threshold_on not in THRESHOLDS:
            raise UserError(f"bbox_head.threshold_on={threshold_on!r}: choose from {', '.join(THRESHOLDS)}")
        self.threshold_on = threshold_on
        self.prior_generator.offset = point_offset

    def predict_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        score_factors: Sequence[Tensor] | None = None,
        batch_img_metas: Sequence[dict] | None = None,
        cfg: Any = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[Any]:
        """As in mmdet: maps [B, K, H, W] of each level -> instances of each image, with the other score."""
        settings = copy.deepcopy(self.test_cfg if cfg is None else cfg)
        least = float(settings.get("score_thr", 0))
        if self.threshold_on == "score":
            settings["score_thr"] = least**2  # the probability is at least the square of the score
        maps = (cls_scores, bbox_preds, score_factors)
        found = super().predict_by_feat(*maps, batch_img_metas, settings, rescale, with_nms)
        for place, instances in enumerate(found):
            instances.scores = instances.scores.sqrt()
            if self.threshold_on == "score":
                found[place] = instances[instances.scores > least]
        return found


@MODELS.register_module()
class SqrtScoreFCOSHead(SqrtScore, HasLevelNorms, FCOSHead):
    """FCOSHead with the score of :class:`SqrtScore`, and BatchNorm per level."""


@MODELS.register_module()
class FixedShapeSqrtScoreFCOSHead(SqrtScore, FixedShapeFCOSHead):
    """:class:`SqrtScoreFCOSHead` with a fixed-shape loss."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.level_spec = replace(self.level_spec, offset=self.prior_generator.offset)
