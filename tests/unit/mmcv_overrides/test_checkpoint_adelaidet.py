"""AdelaiDet's names of FCOS: a state dict made by hand, and whole models under its names."""

import logging
import re

import pytest
import torch

from mmcv_overrides import checkpoint
from mmcv_overrides.checkpoint.adelaidet import is_adelaidet, mmdet_names
from tests.support.steps import small_model

HEAD = "proposal_generator.fcos_head."
BODY = "backbone.bottom_up"
NORMS = {"fcos-bn": {"type": "BN"}, "fcos-gn": {"type": "GN", "num_groups": 4}, "fcos-plain": None}


def silent():
    log = logging.getLogger("tests.adelaidet")
    log.setLevel(logging.CRITICAL)
    return log


def by_hand():
    """Two layers with BatchNorm of two levels in one tower, one layer with GroupNorm in the other."""
    generator = torch.Generator().manual_seed(0)

    def values(*shape):
        return torch.randn(shape, generator=generator)

    found = {f"{HEAD}scales.{level}.scale": values(1) for level in range(2)}
    for index in (0, 3):
        found |= {f"{HEAD}cls_tower.{index}.weight": values(4, 4, 3, 3), f"{HEAD}cls_tower.{index}.bias": values(4)}
        for level in range(2):
            for name in ("weight", "bias", "running_mean", "running_var"):
                found[f"{HEAD}cls_tower.{index + 1}.{level}.{name}"] = values(4)
            found[f"{HEAD}cls_tower.{index + 1}.{level}.num_batches_tracked"] = torch.tensor(9)
    found |= {f"{HEAD}bbox_tower.0.weight": values(4, 4, 3, 3), f"{HEAD}bbox_tower.1.weight": values(4)}
    found |= {
        f"{HEAD}{name}.{leaf}": values(4)
        for name in ("cls_logits", "bbox_pred", "ctrness")
        for leaf in ("weight", "bias")
    }
    return found


def test_each_name_by_hand():
    source = by_hand()
    found = mmdet_names(source)
    assert is_adelaidet(source) and len(found) == len(source)
    expected = {
        "cls_convs.0.conv.weight": "cls_tower.0.weight",
        "cls_convs.0.bn.0.weight": "cls_tower.1.0.weight",
        "cls_convs.0.bn.1.running_var": "cls_tower.1.1.running_var",
        "cls_convs.1.conv.bias": "cls_tower.3.bias",
        "cls_convs.1.bn.1.num_batches_tracked": "cls_tower.4.1.num_batches_tracked",
        "reg_convs.0.conv.weight": "bbox_tower.0.weight",
        "reg_convs.0.gn.weight": "bbox_tower.1.weight",
        "conv_cls.weight": "cls_logits.weight",
        "conv_reg.bias": "bbox_pred.bias",
        "conv_centerness.bias": "ctrness.bias",
    }
    for name, old in expected.items():
        assert torch.equal(found[f"bbox_head.{name}"], source[f"{HEAD}{old}"]), name
    assert (
        found["bbox_head.scales.1.scale"].shape == ()
        and found["bbox_head.scales.1.scale"] == source[f"{HEAD}scales.1.scale"]
    )
    assert all(name.startswith("bbox_head.") for name in found)


def test_what_has_no_counterpart_keeps_its_name():
    source = by_hand() | {f"{HEAD}share_tower.0.weight": torch.ones(4, 4, 3, 3), "pixel_mean": torch.ones(3)}
    assert {f"{HEAD}share_tower.0.weight", "pixel_mean"} <= set(mmdet_names(source))
    assert not is_adelaidet({"bbox_head.conv_cls.weight": torch.ones(1)})


def as_adelaidet(model, norm):
    """The weights of a model under AdelaiDet's names: its documentation, read in the other direction."""
    step, rules = 3 if norm else 2, [
        (r"^bbox_head\.(cls|reg)_convs\.(\d)\.conv\.", lambda m: f"{HEAD}{tower(m[1])}_tower.{step * int(m[2])}."),
        (r"^bbox_head\.(cls|reg)_convs\.(\d)\.[bg]n\.", lambda m: f"{HEAD}{tower(m[1])}_tower.{step * int(m[2]) + 1}."),
        (r"^bbox_head\.conv_cls\.", f"{HEAD}cls_logits."),
        (r"^bbox_head\.conv_reg\.", f"{HEAD}bbox_pred."),
        (r"^bbox_head\.conv_centerness\.", f"{HEAD}ctrness."),
        (r"^bbox_head\.", HEAD),
        (r"^backbone\.(conv|bn)1\.", lambda m: f"{BODY}.stem.conv1.{'norm.' if m[1] == 'bn' else ''}"),
        (r"^backbone\.layer(\d)\.(\d)\.conv(\d)\.", lambda m: f"{BODY}.res{int(m[1]) + 1}.{m[2]}.conv{m[3]}."),
        (r"^backbone\.layer(\d)\.(\d)\.bn(\d)\.", lambda m: f"{BODY}.res{int(m[1]) + 1}.{m[2]}.conv{m[3]}.norm."),
        (r"^backbone\.layer(\d)\.(\d)\.downsample\.0\.", lambda m: f"{BODY}.res{int(m[1]) + 1}.{m[2]}.shortcut."),
        (r"^backbone\.layer(\d)\.(\d)\.downsample\.1\.", lambda m: f"{BODY}.res{int(m[1]) + 1}.{m[2]}.shortcut.norm."),
        (r"^neck\.lateral_convs\.(\d)\.conv\.", lambda m: f"backbone.fpn_lateral{int(m[1]) + 3}."),
        (r"^neck\.fpn_convs\.([012])\.conv\.", lambda m: f"backbone.fpn_output{int(m[1]) + 3}."),
        (r"^neck\.fpn_convs\.([34])\.conv\.", lambda m: f"backbone.top_block.p{int(m[1]) + 3}."),
    ]  # fmt: skip

    def tower(name):
        return {"cls": "cls", "reg": "bbox"}[name]

    named = {}
    for name, value in model.state_dict().items():
        pattern, new = next(rule for rule in rules if re.match(rule[0], name))
        named[re.sub(pattern, new, name)] = value.reshape(1).clone() if ".scales." in name else value.clone()
    return named


@pytest.mark.parametrize("name", NORMS)
def test_a_whole_model(name):
    source, target = small_model(name, seed=1), small_model(name, seed=2)
    weights = as_adelaidet(source, NORMS[name])
    assert not set(weights) & set(source.state_dict())
    report = checkpoint.load_weights(target, {"model": weights}, silent())
    assert report.complete and report.total == len(source.state_dict())
    assert all(torch.equal(target.state_dict()[key], value) for key, value in source.state_dict().items())


def test_a_bias_that_the_model_lacks_is_reported():
    model = small_model("fcos-bn")
    weights = as_adelaidet(model, True) | {f"{HEAD}cls_tower.0.bias": torch.ones(16)}
    assert checkpoint.load_weights(model, {"model": weights}, silent()).unexpected == (
        "bbox_head.cls_convs.0.conv.bias",
    )
