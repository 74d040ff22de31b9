"""Operators that a model will lack: found before the run, with the layer or the key that needs them."""

import re
from pathlib import Path

import pytest
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmcv_overrides.errors import UserError
from mmcv_overrides.ops import ext, needed


class Model(BaseModel):
    def __init__(self, layer=None, **config):
        super().__init__()
        self.neck = nn.Sequential(nn.Conv2d(3, 3, 1), layer or nn.ReLU())

    def forward(self, inputs, data_samples=None, mode="tensor"):
        return self.neck(inputs)


def build(model):
    return needed.build_model(Runner.__new__(Runner), model)


def test_a_layer_that_needs_a_compiled_operator_is_named():
    from mmcv.ops import Correlation

    class Flow(Correlation):
        pass

    with pytest.raises(UserError) as error:
        build(Model(Flow()))
    assert str(error.value) == (
        "the model needs operators of a compiled mmcv, and this mmcv was installed without: correlation_forward, "
        "correlation_backward for layer 'neck.1' (Correlation). Install an mmcv that was compiled for this torch and "
        "device, or use another layer in the config."
    )


def test_a_kind_of_nms_in_the_config_is_named_because_only_validation_would_meet_it():
    import mmcv.ops  # noqa: F401  its files ask for their operators now
    from mmengine.registry import MODELS

    MODELS.register_module(name="ModelOfThisTest", module=Model, force=True)
    config = {"type": "ModelOfThisTest", "test_cfg": [{"nms": {"type": "nms_quadri", "iou_threshold": 0.5}}]}
    with pytest.raises(UserError, match=r"nms_quadri for model\.test_cfg\[0\]\.nms\.type\."):
        build(config)
    config["test_cfg"] = [{"nms": {"type": "nms_rotated", "iou_threshold": 0.5}}]
    assert type(build(config)) is Model


def test_layers_with_portable_operators_or_a_torch_form_pass():
    from mmcv.ops import CARAFE, FusedBiasLeakyReLU, RoIPool

    assert "upfirdn2d" in ext.LACKING and "fused_bias_leakyrelu" in ext.LACKING
    model = Model(nn.Sequential(CARAFE(3, 1, 2), RoIPool(2), FusedBiasLeakyReLU(3)))
    assert build(model) is model


def test_only_operators_without_portable_form_are_listed():
    import mmcv.ops  # noqa: F401

    lacking = {name for names in ext.LACKING.values() for name in names}
    assert "tin_shift_forward" in lacking
    assert not lacking & set(ext.__all__)


def test_the_documentation_lists_every_operator():
    text = (Path(__file__).parents[3] / "docs/operators.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[2])]
    assert sorted(listed) == sorted(name for name in ext.__all__ if not name.startswith("get_"))
