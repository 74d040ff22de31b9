"""A configuration for weights that carry none: for FCOS of other packages; for mmdet's own, the config to name.

Names, number of classes, layers and norms are read from the weights. What weights cannot tell is the package's default,
and a line says so:

| | AdelaiDet | detectron2 | torchvision |
|---|---|---|---|
| image | BGR, MSRA mean, std 1 | as AdelaiDet | RGB, ImageNet mean and std |
| stride of a bottleneck | in its 1x1 convolution | as AdelaiDet | in its 3x3 convolution |
| first point of a level | half a stride | half a stride | 0 |
| score | sqrt(class x centerness) | the same | the same |
| threshold | 0.05 on the class | 0.2 on the score | 0.2 on the score |
| IoU of the suppression | 0.6 | 0.6 | 0.6 |

Differences that remain: the best 1000 candidates of a level are chosen by class probability, there by the score; images
are resized as uint8 before the normalisation, in torchvision as float afterwards; AdelaiDet clips boxes to the image
after the suppression, not before; torchvision places the points of P6 and P7 at multiples of image size / map size,
which is the stride (as here) where the padded sides are multiples of 128. Of torchvision's 91 classes, which are COCO's
category ids, the 80 that exist are kept, in the order of COCO.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mmengine.config import Config
from torch import Tensor

from fcos_train.config.load import config_folders
from fcos_train.config.mmdet2.pipeline import Pixels
from mmcv_overrides.checkpoint.adelaidet import is_adelaidet
from mmcv_overrides.checkpoint.torchvision_names import is_torchvision
from mmcv_overrides.checkpoint.weights import mmdet_names_of, state_dict_of, without_wrappers
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable

# Blocks of the four stages -> depth with basic blocks and with bottlenecks; 0: there is none.
DEPTHS: dict[tuple[int, ...], tuple[int, int]] = {
    (2, 2, 2, 2): (18, 0),
    (3, 4, 6, 3): (34, 50),
    (3, 4, 23, 3): (0, 101),
    (3, 8, 36, 3): (0, 152),
}
SCORE_THR = {"AdelaiDet": 0.05, "detectron2": 0.2, "torchvision": 0.2}
CAFFE = Pixels((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), False, 32)
IMAGENET = Pixels((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), True, 32)
# Levels -> strides, ranges of the regressed distances, (long, short) side of an image. AdelaiDet's FCOS-RT has three.
INF = 1e8
PYRAMIDS: dict[int, tuple[list[int], list[tuple[float, float]], tuple[int, int]]] = {
    5: ([8, 16, 32, 64, 128], [(-1, 64), (64, 128), (128, 256), (256, 512), (512, INF)], (1333, 800)),
    3: ([8, 16, 32], [(-1, 64), (64, 128), (128, INF)], (736, 512)),
}
EFFICIENTNETS = {3: "b0_512", 5: "b2_768", 6: "b3_896"}  # repeats of BiFPN -> config
# Names of mmdet's FCOS; anything else is a layer that the model here would lack.
OWN = re.compile(
    r"backbone\.(conv1|bn1|layer\d\.\d+\.(conv\d|bn\d|downsample\.[01]))\.\w+"
    r"|neck\.(lateral|fpn)_convs\.\d\.conv\.\w+"
    r"|bbox_head\.((cls|reg)_convs\.\d+\.(conv|[bg]n(\.\d)?)|conv_(cls|reg|centerness)|scales\.\d)\.\w+"
)


def package_of(weights: Mapping[str, Tensor]) -> str | None:
    """``AdelaiDet``, ``detectron2`` or ``torchvision`` if the names are those of its FCOS."""
    if is_torchvision(weights):
        return "torchvision"
    if is_adelaidet(weights):
        return "detectron2" if "head.ctrness.weight" in weights else "AdelaiDet"
    return None


def config_for(checkpoint: Mapping[str, Any], where: str) -> tuple[Config, list[str]]:
    """The configuration for a checkpoint without one.

    Returns:
        the configuration, and lines for the log: where it comes from and what it assumes.

    Raises:
        UserError: the weights are not FCOS of AdelaiDet, detectron2 or torchvision, or have parts that mmdet lacks.
    """
    tensors = {str(k): v for k, v in state_dict_of(checkpoint).items() if isinstance(v, Tensor)}
    source = without_wrappers(tensors)
    package = package_of(source)
    if package is None:
        raise UserError(
            f"{where} contains no configuration; give the one it was trained with: --config FILE{_shipped(source)}"
        )
    weights = mmdet_names_of(source)
    pixels = _pixels(source, package)
    weights = {name: value for name, value in weights.items() if name not in ("pixel_mean", "pixel_std")}
    model = _model(weights, package, pixels, where)
    base = Config.fromfile(str(config_folders()[""] / "_base_" / "coco_detection.py"))
    scale = PYRAMIDS[model["neck"]["num_outs"]][2]
    _resize(base, scale)
    config = Config({"default_scope": "mmdet", "test_cfg": {"type": "TestLoop"}, **base.to_dict(), "model": model})
    colours = pixels.words()
    place = "3x3" if package == "torchvision" else "1x1"
    depth, count = model["backbone"]["depth"], model["bbox_head"]["num_classes"]
    norm = (model["bbox_head"]["norm_cfg"] or {"type": "no norm"})["type"]
    return config, [
        f"{where}: weights of {package}'s FCOS, ResNet-{depth}, {norm} in the head, {count} classes",
        f"  assumed, because weights do not tell: {colours}, stride in the {place} convolution of a block, short side "
        f"{scale[1]} px; otherwise give a config with --config",
        f"  score: sqrt(class x centerness) as in {package}; boxes above {SCORE_THR[package]}, IoU 0.6",
    ]


def _resize(config: Config, scale: tuple[int, int]) -> None:
    """Set the size of the images that the base config reads."""
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for step in config[name].dataset.pipeline:
            if step.type == "Resize":
                step["scale"] = scale


def _pixels(weights: Mapping[str, Tensor], package: str) -> Pixels:
    """How images are normalised: by ``pixel_mean`` and ``pixel_std``, which some files have, else by the default."""
    default = IMAGENET if package == "torchvision" else CAFFE
    if not {"pixel_mean", "pixel_std"} <= weights.keys():
        return default
    mean, std = (tuple(round(float(v), 4) for v in weights[name].flatten()) for name in ("pixel_mean", "pixel_std"))
    return replace(default, mean=mean, std=std, to_rgb=mean[0] > mean[-1])  # red is the brightest channel


def _model(weights: Mapping[str, Tensor], package: str, pixels: Pixels, where: str) -> dict[str, Any]:
    """The model whose tensors have these names and shapes."""
    body = _backbone(weights, package, where)
    strange = [name for name in weights if not OWN.fullmatch(name) and not name.startswith("anchor_generator.")]
    if strange:
        raise _unknown(where, package, f"such as {printable(strange[0])}")
    laterals = _indexed(weights, r"neck\.lateral_convs\.(\d+)\.conv\.weight")
    outputs = _indexed(weights, r"neck\.fpn_convs\.(\d+)\.conv\.weight")
    tower = _indexed(weights, r"bbox_head\.cls_convs\.(\d+)\.conv\.weight")
    logits = weights.get("bbox_head.conv_cls.weight")
    if not laterals or len(outputs) not in PYRAMIDS or logits is None:
        raise _unknown(where, package, "a pyramid of five levels, or of three, and one class layer are expected")
    channels, extra = len(outputs[0]), outputs[-2].shape[1]
    strides, ranges, _ = PYRAMIDS[len(outputs)]
    shapes = _stage_channels(body["depth"], weights["backbone.conv1.weight"])
    head: dict[str, Any] = {
        "type": "SqrtScoreFCOSHead",
        "num_classes": len(logits),
        "in_channels": channels,
        "feat_channels": logits.shape[1],
        "strides": strides,
        "regress_ranges": ranges,
        "stacked_convs": len(tower),
        "conv_bias": any(name.startswith("bbox_head.cls_convs.0.conv.bias") for name in weights),
        "norm_cfg": _head_norm(weights),
        "centerness_on_reg": True,
        "norm_on_bbox": True,
        "center_sampling": True,
        "loss_bbox": {"type": "GIoULoss", "loss_weight": 1.0},
        "threshold_on": "cls" if package == "AdelaiDet" else "score",
        "point_offset": 0.0 if package == "torchvision" else 0.5,
    }
    return {
        "type": "FCOS",
        "data_preprocessor": pixels.preprocessor(),
        "backbone": {**body, "style": "pytorch" if package == "torchvision" else "caffe"},
        "neck": {
            "type": "FPN",
            "in_channels": shapes,
            "out_channels": channels,
            "start_level": 4 - len(laterals),
            "num_outs": len(outputs),
            "add_extra_convs": False if len(outputs) == 3 else "on_output" if extra == channels else "on_input",
            "relu_before_extra_convs": True,
        },
        "bbox_head": head,
        "test_cfg": {
            "nms_pre": 1000,
            "min_bbox_size": -1,
            "score_thr": SCORE_THR[package],
            "nms": {"type": "nms", "iou_threshold": 0.6},
            "max_per_img": 100,
        },
    }


def _backbone(weights: Mapping[str, Tensor], package: str, where: str) -> dict[str, Any]:
    counts = tuple(
        len({found[1] for name in weights if (found := re.match(rf"backbone\.layer{stage}\.(\d+)\.", name))})
        for stage in range(1, 5)
    )
    bottleneck = "backbone.layer1.0.conv3.weight" in weights
    stem = weights.get("backbone.conv1.weight")
    depth = DEPTHS.get(counts, (0, 0))[bottleneck]
    if not depth or stem is None:
        raise _unknown(where, package, "only a ResNet of 18 to 152 layers is known")
    return {
        "type": "ResNet",
        "depth": depth,
        "base_channels": len(stem),
        "out_indices": (0, 1, 2, 3),
        "frozen_stages": 1,
        "norm_cfg": {"type": "BN", "requires_grad": False},
        "norm_eval": True,
    }


def _stage_channels(depth: int, stem: Tensor) -> list[int]:
    return [len(stem) * 2**stage * (4 if depth >= 50 else 1) for stage in range(4)]


def _head_norm(weights: Mapping[str, Tensor]) -> dict[str, Any] | None:
    if "bbox_head.cls_convs.0.gn.weight" in weights:
        return {"type": "GN", "num_groups": 32}  # of all three packages
    if any(name.startswith("bbox_head.cls_convs.0.bn.") for name in weights):
        return {"type": "BN", "shared_affine": "bbox_head.cls_convs.0.bn.weight" in weights}
    return None


def _indexed(weights: Mapping[str, Tensor], pattern: str) -> list[Tensor]:
    """The tensors whose name matches, by the number in it."""
    found = {int(match[1]): weights[name] for name in weights if (match := re.fullmatch(pattern, name))}
    return [found[index] for index in sorted(found)]


def _unknown(where: str, package: str, fault: str) -> UserError:
    return UserError(f"{where}: weights of {package} whose layers are not known here ({fault}); give a --config FILE")


def _shipped(weights: Mapping[str, Tensor]) -> str:
    """For mmdet's own names: the shipped config whose model has them; "" if none does."""
    names = set(mmdet_names_of(dict(weights)))
    repeats = {name.split(".")[2] for name in names if name.startswith("neck.layers.")}
    if len(repeats) in EFFICIENTNETS and any(name.startswith("backbone.layers.") for name in names):
        return _named(f"fcos_efficientnet/fcos_efficientnet{EFFICIENTNETS[len(repeats)]}")
    deep = any(name.startswith("backbone.layer3.22.") for name in names)
    if any(name.startswith(("bbox_head.conv_centerness", "bbox_head.fcos_centerness")) for name in names):
        norm = next((kind for kind in ("gn", "bn") if any(f"cls_convs.0.{kind}." in name for name in names)), "")
        small = not any(name.startswith("backbone.layer1.0.conv3") for name in names)
        found = (
            "fcos/fcos_r18_fpn_shapes"
            if small
            else f"fcos/fcos_r50_caffe_fpn_{norm + '-head_' if norm else ''}4x4_1x_coco"
        )
    elif any(name.startswith("roi_head.bbox_head.2.") for name in names) and deep:
        found = "cascade_rcnn/cascade_rcnn_r101_fpn_dconv_c3-c5_1x_coco"
    elif "bbox_head.retina_reg.weight" in weights and not deep:
        kind = "fsaf" if len(weights["bbox_head.retina_reg.weight"]) == 4 else "retinanet"
        found = f"{kind}/{kind}_r50_fpn_1x_coco"
    else:
        return ""
    return _named(found)


def _named(config: str) -> str:
    return f" (the names look like --config {config}; the number of classes is read from the weights)"
