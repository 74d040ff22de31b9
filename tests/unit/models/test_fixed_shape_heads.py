"""Which heads have a fixed-shape form, under which names, and what a further head has to implement."""

import pytest
from mmdet.models.dense_heads import RetinaHead
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope

from fcos_train.models import STOCK_OF_FIXED_SHAPE, fixed_shape_head_of
from fcos_train.models.fixed_shape_heads import FIXED_SHAPE
from fcos_train.models.padded_head import FixedShapeHead
from tests.support.small_detectors import small_config


@pytest.mark.parametrize(("name", "old"), [("fcos-gn", "StaticFCOSHead"), ("fsaf", "StaticFSAFHead")])
def test_a_config_with_a_name_of_earlier_releases(name, old, tmp_path):
    """As ``config.py`` of a work directory has it: it is read, built, and prepared for training."""
    config = small_config(name)
    config.model.bbox_head.type = old
    config.dump(tmp_path / "config.py")
    model = Config.fromfile(tmp_path / "config.py").model
    assert model.bbox_head.type == old
    with DefaultScope.overwrite_default_scope("mmdet"):
        head = MODELS.build(model).bbox_head
    assert type(head).__name__ == FIXED_SHAPE[STOCK_OF_FIXED_SHAPE[old]]
    stock, line = STOCK_OF_FIXED_SHAPE[old], old.removeprefix("Static").replace("Head", " head")
    assert fixed_shape_head_of(model) == (FIXED_SHAPE[stock], line)


@pytest.mark.parametrize("stock", FIXED_SHAPE)
def test_names_lead_back_to_mmdets_head(stock):
    assert STOCK_OF_FIXED_SHAPE[FIXED_SHAPE[stock]] == stock
    assert MODELS.get(FIXED_SHAPE[stock]).__name__ == FIXED_SHAPE[stock]
    assert issubclass(MODELS.get(FIXED_SHAPE[stock]), FixedShapeHead)


def test_heads_without_a_fixed_shape_form_are_named():
    assert fixed_shape_head_of({"bbox_head": {"type": "mmdet.ATSSHead"}}) == (None, "ATSSHead has no fixed-shape form")
    assert fixed_shape_head_of({"type": "FasterRCNN"}) == (None, "FasterRCNN has no fixed-shape form")


def test_a_head_that_lacks_a_part_of_the_contract_cannot_be_built():
    class Incomplete(FixedShapeHead, RetinaHead):
        def predictions(self, level, convolve, cls_feat, reg_feat):
            return ()

    with pytest.raises(TypeError, match="abstract.*loss_of_objects"):
        Incomplete(num_classes=3, in_channels=8)
