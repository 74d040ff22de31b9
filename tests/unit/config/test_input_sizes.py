"""A neck that needs multiples of 128 px is checked before the first image is read."""

import pytest
from mmengine.config import Config

from fcos_train.config.input_sizes import check_input_sizes, needed_multiple
from fcos_train.config.load import load_config
from mmcv_overrides.errors import UserError

SMALL = "fcos_efficientnet/fcos_efficientnetb0_small"


def config(divisor=128, shapes=(), **neck):
    model = {"neck": {"type": "BiFPN", **neck}, "data_preprocessor": {"pad_size_divisor": divisor}}
    return Config(
        {"model": model, "train_dataloader": {"collate_fn": {"type": "fixed_shape_collate", "shapes": shapes}}}
    )


@pytest.mark.parametrize(
    ("cfg", "fault"),
    [
        (config(), None),
        (config(256, [(256, 384)]), None),
        (config(32, num_outs=3), None),  # strides 8, 16, 32
        (config(32), "pad_size_divisor=32: BiFPN needs inputs whose sides are multiples of 128 px; set it to 128"),
        (config(128, num_outs=6), "set it to 256"),
        (config(128, [(256, 320), (384, 256), (200, 128)]), "shapes: 256x320, 200x128 .*multiples of 128 px"),
        (Config({"model": {"neck": {"type": "FPN"}}}), None),
    ],
)
def test_what_is_refused(cfg, fault):
    if fault is None:
        check_input_sizes(cfg)
    else:
        with pytest.raises(UserError, match=fault):
            check_input_sizes(cfg)


@pytest.mark.parametrize(("name", "multiple"), [(SMALL, 128), ("fcos/fcos_rt_r50_fpn_bn", 1)])
def test_shipped_configs(name, multiple):
    cfg = load_config(name)
    assert needed_multiple(cfg.model) == multiple
    check_input_sizes(cfg)
