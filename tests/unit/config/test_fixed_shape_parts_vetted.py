"""Configs that name the fixed-shape parts pass the check of stored configs."""

from fcos_train.config import step_mode, vetting
from fcos_train.config.load import load_config
from fcos_train.config.options import TrainOptions
from mmcv_overrides import device


def test_a_stored_config_may_name_them():
    name = "fcos/fcos_tiny_shapes"
    cfg = load_config(name)
    step_mode.set_step(cfg, TrainOptions(config=name), device.pick("cpu")[0])
    assert cfg.model.bbox_head.type == "FixedShapeFCOSHead"
    assert cfg.model.data_preprocessor.type == "FixedShapePreprocessor"
    vetting.check_parts(cfg.model.to_dict(), "model", "checkpoint")
