"""Weights of FCOS from AdelaiDet, detectron2 and torchvision, without a config: the boxes are those of the package."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.registry import DefaultScope

from fcos_train.config.load import load_config
from fcos_train.config.of_checkpoint import find
from fcos_train.infer.detector import Detector
from mmcv_overrides.checkpoint.weights import mmdet_names_of
from mmcv_overrides.errors import UserError
from tests.support.other_fcos import ADELAIDET, DETECTRON2, TORCHVISION, detect, random_weights

PACKAGES = {
    "AdelaiDet": ADELAIDET,
    "AdelaiDet-bn": replace(ADELAIDET, norm="bn"),
    "AdelaiDet-rt": replace(ADELAIDET, norm="bn", levels=3),
    "AdelaiDet-none": replace(ADELAIDET, norm="none"),
    "AdelaiDet-without-scales": replace(ADELAIDET, scales=""),
    "detectron2": DETECTRON2,
    "detectron2-bn": replace(DETECTRON2, norm="shared"),
    "torchvision": TORCHVISION,
}
IMAGE = np.random.default_rng(0).integers(0, 255, (128, 256, 3)).astype(np.uint8)


def detector(package, path, **content):
    """The detector of a file of weights, with the images in their own size."""
    weights = random_weights(package)
    torch.save({"model": {f"module.{name}": value for name, value in weights.items()}, **content}, path)
    found = find(torch.load(path, weights_only=True), path.name, None)
    config = found.config
    for step in config.test_dataloader.dataset.pipeline:
        if step.type == "Resize":
            step.scale = (256, 128)
    return weights, Detector.from_checkpoint(path, config=config), found.notes


@pytest.mark.parametrize("name", PACKAGES)
def test_the_boxes_are_those_of_the_package(name, tmp_path):
    package = PACKAGES[name]
    weights, found, notes = detector(package, tmp_path / "a.pth")
    boxes, scores, labels = detect(package, weights, torch.from_numpy(IMAGE))
    ours = found(IMAGE)
    assert len(ours) == len(scores) > 20 and scores[0] - scores[-1] > 0.02
    np.testing.assert_allclose(ours.scores, scores.numpy(), atol=2e-5)
    np.testing.assert_allclose(ours.boxes, boxes.numpy(), atol=0.02)
    assert (ours.labels == labels.numpy()).all()
    norm = {"gn": "GN", "none": "no norm"}.get(package.norm, "BN")
    assert notes[0] == f"a.pth: weights of {package.name}'s FCOS, ResNet-50, {norm} in the head, 3 classes"
    assert ("RGB" if package.rgb else "BGR") in notes[1] and "--config" in notes[1]
    assert f"short side {512 if package.levels == 3 else 800} px" in notes[1]


@pytest.mark.parametrize(("name", "end"), [("AdelaiDet-bn", "decoded"), ("torchvision", "raw"), ("torchvision", "nms")])
def test_export(name, end, tmp_path):
    pytest.importorskip("onnxruntime")
    from fcos_train.deploy.onnx.export import ExportOptions, export_detector

    _, found, _ = detector(PACKAGES[name], tmp_path / "a.pth")
    path = tmp_path / "a.onnx"
    export_detector(found, ExportOptions("a.pth", end=end, shape=(128, 256)), path, lambda line: None)
    decode = json.loads(path.with_suffix(".json").read_text())["decode"]
    assert decode["sqrt"] is True and decode["threshold_on"] == ("cls" if name.startswith("Adel") else "score")
    assert decode["offset"] == (0.0 if name == "torchvision" else 0.5)


def test_torchvision_keeps_the_categories_of_coco():
    weights = random_weights(TORCHVISION)
    layer = "head.classification_head.cls_logits"
    weights[f"{layer}.weight"] = torch.arange(91.0).reshape(91, 1, 1, 1).expand(91, 32, 3, 3)
    weights[f"{layer}.bias"] = torch.arange(91.0)
    from mmcv_overrides.checkpoint.torchvision_names import mmdet_names_of_torchvision

    rows = mmdet_names_of_torchvision(weights)["bbox_head.conv_cls.bias"].tolist()
    # person, bicycle, ..., stop sign (13 after the street sign's 12), ..., toothbrush
    assert len(rows) == 80 and rows[:3] == [1, 2, 3] and rows[10:13] == [11, 13, 14] and rows[-1] == 90
    assert find({"model": weights}, "a.pth", None).config.model.bbox_head.num_classes == 80


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"proposal_generator.fcos_head.share_tower.0.weight": torch.ones(1)}, "such as .*share_tower.0.weight"),
        ({"backbone.bottom_up.res5.3.conv1.weight": torch.ones(1)}, "only a ResNet of 18 to 152 layers"),
        ({"backbone.bottom_up.res3.0.conv2_offset.weight": torch.ones(1)}, "such as .*conv2_offset"),
    ],
)
def test_other_layers_are_named(change, says):
    with pytest.raises(UserError, match=f"a.pth: weights of .*{says}.*--config FILE"):
        find({"model": random_weights(ADELAIDET) | change}, "a.pth", None)


def test_pixel_mean_of_the_file_is_obeyed():
    own = {"pixel_mean": torch.tensor([123.675, 116.28, 103.53]), "pixel_std": torch.tensor([58.395, 57.12, 57.375])}
    own = {name: value.reshape(3, 1, 1) for name, value in own.items()}
    found = find({"model": random_weights(DETECTRON2) | own}, "a.pth", None)
    prepared = found.config.model.data_preprocessor
    assert prepared.bgr_to_rgb and prepared.mean == pytest.approx([123.675, 116.28, 103.53])
    assert "RGB, mean 123.675 116.28 103.53, std 58.395 57.12 57.375" in found.notes[1]


@pytest.mark.parametrize(
    ("config", "levels"), [("fcos/fcos_rt_r50_fpn_bn", 3), ("fcos/fcos_r50_caffe_fpn_bn-head_adelaidet_1x_coco", 5)]
)
def test_shipped_configs_take_every_tensor_of_adelaidet(config, levels):
    """With the widths of the small weights: equal names and shapes, and the levels and norms of the package."""
    model = load_config(config).model
    model.backbone.update(base_channels=8, init_cfg=None)
    model.neck.update(in_channels=[32, 64, 128, 256], out_channels=32)
    model.bbox_head.update(in_channels=32, feat_channels=32, stacked_convs=2, num_classes=3)
    with DefaultScope.overwrite_default_scope("mmdet"):
        built = MODELS.build(model)
    weights = mmdet_names_of(random_weights(replace(ADELAIDET, norm="bn", levels=levels)))
    own = {name for name in built.state_dict() if not name.endswith("num_batches_tracked")}
    assert set(weights) == own
    assert {name: weights[name].shape for name in own} == {name: built.state_dict()[name].shape for name in own}
    head = built.bbox_head
    assert head.sqrt_score and head.norm_on_bbox and head.centerness_on_reg
    assert [stride[0] for stride in head.prior_generator.strides] == [8, 16, 32, 64, 128][:levels]
    assert head.regress_ranges[1] == (64, 128) and head.regress_ranges[-1][1] == 1e8


LARGE = "backbone.layer1.0.conv3.weight"


@pytest.mark.parametrize(
    ("names", "config"),
    [
        ({"bbox_head.conv_centerness.weight": 1, LARGE: 1}, "fcos_r50_caffe_fpn_4x4_1x_coco"),
        ({"bbox_head.fcos_centerness.weight": 1, LARGE: 1, "bbox_head.cls_convs.0.gn.bias": 1}, "fpn_gn-head_4x4"),
        ({"module.bbox_head.retina_reg.weight": 36}, "retinanet_r50_fpn_1x_coco"),
        ({"bbox_head.retina_reg.weight": 4}, "fsaf_r50_fpn_1x_coco"),
        ({"roi_head.bbox_head.2.fc_cls.weight": 1, "backbone.layer3.22.conv1.weight": 1}, "cascade_rcnn_r101_fpn"),
        ({f"neck.layers.{n}.up": 1 for n in range(5)} | {"backbone.layers.0.conv": 1}, "fcos_efficientnetb2_768"),
        ({"encoder.weight": 1}, None),
    ],
)  # fmt: skip
def test_weights_of_mmdet_alone_name_the_config(names, config):
    with pytest.raises(UserError) as caught:
        find({name: torch.zeros(rows, 2) for name, rows in names.items()}, "a.pth", None)
    assert "a.pth contains no configuration; give the one it was trained with: --config FILE" in str(caught.value)
    assert (config in str(caught.value)) if config else ("look like" not in str(caught.value))
