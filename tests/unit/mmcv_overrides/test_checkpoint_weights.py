"""Weights into a model: old names, other classes, wrong models."""

import logging
from collections import OrderedDict

import pytest
import torch
from mmengine.registry import DefaultScope
from torch import nn

from mmcv_overrides import checkpoint
from mmcv_overrides.checkpoint.mmengine_functions import load_checkpoint_to_model
from mmcv_overrides.errors import UserError

COCO5 = ("person", "bicycle", "car", "dog", "cat")


class Head(nn.Module):
    """The names of mmdet's FCOS head; conv_cls has ``anchors * classes`` rows."""

    def __init__(self, classes, anchors=1):
        super().__init__()
        self.conv_cls = nn.Conv2d(4, anchors * classes, 3)
        self.conv_reg = nn.Conv2d(4, 4, 3)
        self.conv_centerness = nn.Conv2d(4, 1, 3)


class Detector(nn.Module):
    def __init__(self, classes, anchors=1, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.bbox_head = Head(classes, anchors)


def _weights(model, old_names=False, prefix=""):
    def rename(key):
        for kind in ("cls", "reg", "centerness"):
            key = key.replace(f"conv_{kind}", f"fcos_{kind}") if old_names else key
        return prefix + key

    return OrderedDict((rename(k), v.clone()) for k, v in model.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "module.", "module.module.", "_orig_mod."])
@pytest.mark.parametrize("form", ["mmcv .pth", "apex .pth.tar", "bare"])
def test_old_fcos_checkpoints_match_fully(tmp_path, prefix, form):
    old, new = Detector(3, seed=1), Detector(3, seed=2)
    weights = _weights(old, old_names=True, prefix=prefix)
    content = {
        "mmcv .pth": {
            "state_dict": weights,
            "meta": {"mmcv_version": "1.2.7", "CLASSES": ("a", "b", "c")},
            "optimizer": {},
        },
        "apex .pth.tar": {
            "epoch": 12,
            "state_dict": weights,
            "optimizer": {},
            "amp": {"loss_scaler0": {"loss_scale": 32.0}},
        },
        "bare": weights,
    }[form]
    path = tmp_path / ("a.pth.tar" if "apex" in form else "a.pth")
    torch.save(content, path)
    report = checkpoint.load_weights(new, checkpoint.load(path), logging.getLogger("w"))
    assert (report.total, len(report.matched), report.complete) == (13, 13, True)
    for key, value in old.state_dict().items():
        assert torch.equal(new.state_dict()[key], value), key


def test_real_mmdet_head_loads_names_of_mmdet_1(tmp_path):
    heads = pytest.importorskip("mmdet.models.dense_heads", reason="mmdet cannot be imported here")
    with DefaultScope.overwrite_default_scope("mmdet"):
        head = heads.FCOSHead(num_classes=3, in_channels=8, feat_channels=8, stacked_convs=1, norm_cfg=None)
    model = nn.Module()
    model.bbox_head = head
    weights = OrderedDict()
    for i, (key, value) in enumerate(model.state_dict().items()):
        for kind in ("cls", "reg", "centerness"):
            key = key.replace(f"conv_{kind}.", f"fcos_{kind}.")
        weights[key] = torch.full_like(value, float(i))
    report = checkpoint.load_weights(model, {"state_dict": weights})
    assert report.complete and report.total == len(weights)
    assert [float(v.flatten()[0]) for v in model.state_dict().values()] == list(range(len(weights)))


def test_summary_line_and_reinitialised_class_layer(caplog):
    caplog.set_level(logging.INFO)
    old, new = Detector(80, seed=1), Detector(5, seed=2)
    own = new.bbox_head.conv_cls.weight.clone()
    report = checkpoint.load_weights(new, {"state_dict": _weights(old)}, logging.getLogger("w"))
    assert report.reinitialised == ("bbox_head.conv_cls.weight", "bbox_head.conv_cls.bias")
    assert torch.equal(new.bbox_head.conv_cls.weight, own)
    assert torch.equal(new.bbox_head.conv_reg.weight, old.bbox_head.conv_reg.weight)
    expected = "11/13 tensors; reinitialised bbox_head.conv_cls 80->5; missing: none; unexpected: none"
    assert report.summary() == expected
    assert [r.getMessage() for r in caplog.records] == [f"weights: {expected}"]


@pytest.mark.parametrize("anchors", [1, 3])
@pytest.mark.parametrize("meta", [{"CLASSES": COCO5}, {"dataset_meta": {"classes": COCO5}}])
def test_rows_of_same_named_classes_are_copied(anchors, meta):
    classes = ("dog", "zebra", "person")
    old, new = Detector(5, anchors, seed=1), Detector(3, anchors, seed=2)
    own = new.bbox_head.conv_cls.weight.clone()
    new.dataset_meta = {"classes": classes}
    report = checkpoint.load_weights(new, {"state_dict": _weights(old), "meta": meta})
    assert report.notes == ("reinitialised bbox_head.conv_cls 5->3 (2 of 3 classes kept by name)",)
    for anchor in range(anchors):
        rows = new.bbox_head.conv_cls.weight[3 * anchor : 3 * anchor + 3]
        theirs = old.bbox_head.conv_cls.weight[5 * anchor : 5 * anchor + 5]
        assert torch.equal(rows[0], theirs[3]) and torch.equal(rows[2], theirs[0])
        assert torch.equal(rows[1], own[3 * anchor + 1])


def test_background_row_of_softmax_heads_is_copied():
    old, new = nn.Module(), nn.Module()
    for module, rows in ((old, 6), (new, 3)):
        module.fc_cls, module.fc_reg = nn.Linear(4, rows), nn.Linear(4, 4)
        module.body = nn.Linear(4, 4)
    checkpoint_dict = {"state_dict": old.state_dict(), "meta": {"CLASSES": COCO5}}
    report = checkpoint.load_weights(new, checkpoint_dict, classes=("cat", "horse"))
    assert torch.equal(new.fc_cls.bias[[0, 2]], old.fc_cls.bias[[4, 5]])
    assert report.reinitialised == ("fc_cls.weight", "fc_cls.bias")


def test_same_classes_in_another_order_are_put_in_order():
    old, new = Detector(3, seed=1), Detector(3, seed=2)
    state = {"state_dict": _weights(old), "meta": {"CLASSES": ("a", "b", "c")}}
    checkpoint.load_weights(new, state, classes=("c", "a", "b"))
    assert torch.equal(new.bbox_head.conv_cls.bias, old.bbox_head.conv_cls.bias[[2, 0, 1]])
    checkpoint.load_weights(new, state, classes=("x", "y", "z"))  # nothing in common: as it is
    assert torch.equal(new.bbox_head.conv_cls.bias, old.bbox_head.conv_cls.bias)


def test_other_shapes_missing_and_unexpected_are_told():
    old, new = Detector(3), Detector(3)
    weights = _weights(old)
    weights["backbone.0.bias"] = torch.zeros(7)
    weights["neck.extra"] = torch.zeros(1)
    del weights["bbox_head.conv_reg.bias"], weights["backbone.1.num_batches_tracked"]
    report = checkpoint.load_weights(new, weights)
    assert report.mismatched == ("backbone.0.bias",) and report.missing == ("bbox_head.conv_reg.bias",)
    assert report.unexpected == ("neck.extra",) and (len(report.matched), report.total) == (10, 12)
    assert "backbone.0.bias is [7] in the checkpoint, [4] in the model" in report.summary()


def test_weights_of_another_model_are_refused():
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3))
            self.stages = nn.ModuleList(nn.Linear(2, 2) for _ in range(6))

    with pytest.raises(UserError, match="of another model: 2/12 tensors"):
        checkpoint.load_weights(Detector(3), {"state_dict": Other().state_dict()})
    with pytest.raises(UserError, match="no weights .*but meta, note"):
        checkpoint.load_weights(Detector(3), {"meta": {}, "note": "x"})


def test_upstream_signature_revises_keys_and_is_strict():
    old, new = Detector(3, seed=1), Detector(3, seed=2)
    state = {"state_dict": _weights(old, prefix="student.")}
    assert load_checkpoint_to_model(new, state, revise_keys=[(r"^student\.", "")]) is state
    assert torch.equal(new.bbox_head.conv_cls.bias, old.bbox_head.conv_cls.bias)
    with pytest.raises(RuntimeError, match="80->3"):
        load_checkpoint_to_model(new, {"state_dict": _weights(Detector(80))}, strict=True)
