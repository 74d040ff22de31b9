"""Fixed-shape heads and their preprocessor, registered in mmdet's ``MODELS``. The import activates the overrides."""

import mmcv_overrides.auto  # noqa: F401  the overrides come before mmdet
from fcos_train.models.bifpn import BiFPN
from fcos_train.models.efficientnet import PlainEfficientNet
from fcos_train.models.fcos_head import FixedShapeFCOSHead
from fcos_train.models.fixed_shape_heads import STOCK_OF_FIXED_SHAPE, fixed_shape_head_of
from fcos_train.models.fsaf_head import FixedShapeFSAFHead
from fcos_train.models.level_heads import describe_norms, use_level_norms
from fcos_train.models.ordered_weights import PretrainedInOrder
from fcos_train.models.preprocessor import FixedShapePreprocessor
from fcos_train.models.separable_conv import SeparableConv2d
from fcos_train.models.sqrt_score_head import FixedShapeSqrtScoreFCOSHead, SqrtScoreFCOSHead
from fcos_train.models.upstream import mend

mend()

__all__ = [
    "BiFPN",
    "FixedShapeFCOSHead",
    "FixedShapeFSAFHead",
    "FixedShapePreprocessor",
    "FixedShapeSqrtScoreFCOSHead",
    "PlainEfficientNet",
    "PretrainedInOrder",
    "STOCK_OF_FIXED_SHAPE",
    "SeparableConv2d",
    "SqrtScoreFCOSHead",
    "describe_norms",
    "fixed_shape_head_of",
    "use_level_norms",
]
