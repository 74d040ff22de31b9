"""How many classes weights have, read from the rows of their class layers."""

import pytest
import torch

from mmcv_overrides.checkpoint.class_rows import class_count

CASES = {
    "FCOS": ({"bbox_head.conv_cls.weight": (3, 16, 3, 3), "bbox_head.conv_cls.bias": (3,)}, 3),
    "RetinaNet, nine anchors": ({"bbox_head.retina_cls.weight": (27, 16, 3, 3)}, 3),
    "R-CNN, with the background": ({"roi_head.bbox_head.fc_cls.weight": (4, 64)}, 3),
    "R-CNN, boxes by class": ({"bbox_head.fc_cls.bias": (4,), "bbox_head.fc_reg.bias": (12,)}, 3),
    "RPN, of the same size": ({"rpn_head.rpn_cls.weight": (3, 16, 1, 1)}, None),
    "the same number": ({"bbox_head.conv_cls.weight": (80, 16, 3, 3)}, None),
    "layers that disagree": ({"a.conv_cls.bias": (3,), "b.conv_cls.bias": (4,)}, None),
    "anchors that do not divide": ({"bbox_head.retina_cls.bias": (28,)}, None),
}
OWN = {
    "bbox_head.conv_cls.weight": (80, 16, 3, 3),
    "bbox_head.conv_cls.bias": (80,),
    "bbox_head.retina_cls.weight": (720, 16, 3, 3),
    "bbox_head.retina_cls.bias": (720,),
    "roi_head.bbox_head.fc_cls.weight": (81, 64),
    "bbox_head.fc_cls.bias": (81,),
    "bbox_head.fc_reg.bias": (320,),
    "rpn_head.rpn_cls.weight": (3, 16, 1, 1),
    "a.conv_cls.bias": (80,),
    "b.conv_cls.bias": (80,),
}


@pytest.mark.parametrize("case", CASES)
def test_class_count(case):
    shapes, count = CASES[case]
    weights = {name: torch.zeros(shape) for name, shape in shapes.items()}
    assert class_count(weights, {name: torch.zeros(shape) for name, shape in OWN.items()}, 80) == count
