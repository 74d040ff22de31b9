"""Values of --cfg-options, and sections of the wrong form."""

import pytest

from fcos_train.config.keys.forms import require_forms
from fcos_train.config.values import parse_value
from mmcv_overrides.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[dict(type='EMAHook', momentum=1e-4)]", [{"type": "EMAHook", "momentum": 1e-4}]),
        ("dict(a=[dict(b=(1, 2))], c=None)", {"a": [{"b": (1, 2)}], "c": None}),
        ("{'type': 'EMAHook'}", {"type": "EMAHook"}),
        ("dict()", {}),
        ("dict(a=open('x'))", "dict(a=open('x'))"),
        ("dict(**b)", "dict(**b)"),
        ("[1,2]", [1, 2]),
        ("a,b", ["a", "b"]),
        ("(a,b)", ("a", "b")),
        ("True", True),
        ("none", None),
    ],
)
def test_values(text, value):
    assert parse_value(text) == value


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("custom_hooks", ["EMAHook()"], r"custom_hooks.0 is 'EMAHook\(\)', not a dict such as \{'type': 'EMAHook'\}"),
        ("custom_hooks", {"type": "EMAHook"}, "custom_hooks is .*, not a list of dicts"),
        ("model", "fcos", "model is 'fcos', not a dict"),
        ("optim_wrapper", 3, "optim_wrapper is 3, not a dict"),
        ("param_scheduler", [1], "param_scheduler.0 is 1"),
        ("val_evaluator", "CocoMetric", "val_evaluator is 'CocoMetric'"),
    ],
)
def test_sections_of_another_form_are_refused(section, value, message):
    with pytest.raises(UserError, match=message):
        require_forms({section: value})


def test_forms_that_mmengine_reads():
    require_forms({"model": {}, "custom_hooks": None, "param_scheduler": {"type": "LinearLR"}, "val_evaluator": [{}]})
