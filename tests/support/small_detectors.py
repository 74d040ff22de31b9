"""Shipped mmdet configurations made small, with random weights whose scores spread: checkpoints to export."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.config import Config

CLASSES = ("circle", "square", "triangle", "cross")
SHIPPED = {
    "fcos-gn": "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
    "fcos-bn": "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
    "fcos-plain": "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
    "fcos-centre": "fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py",
    "fsaf": "fsaf/fsaf_r50_fpn_1x_coco.py",
    "retinanet": "retinanet/retinanet_r50_fpn_1x_coco.py",
}
NORMS = {"fcos-gn": {"type": "GN", "num_groups": 4}, "fcos-bn": {"type": "BN"}, "fcos-plain": None}


def shipped(path: str) -> Path:
    """A configuration file that mmdet brings along."""
    return Path(find_spec("mmdet").origin).parent / ".mim" / "configs" / path


def small_config(name: str, static: bool = False) -> Config:
    """One of :data:`SHIPPED` with ResNet-18 of 8 channels, a neck of 16 and one tower convolution."""
    config = Config.fromfile(str(shipped(SHIPPED[name])))
    model = config.model
    model.backbone.update(depth=18, base_channels=8, init_cfg=None, norm_cfg={"type": "BN"}, style="pytorch")
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=16)
    model.bbox_head.update(in_channels=16, feat_channels=16, stacked_convs=1, num_classes=len(CLASSES))
    if name.startswith("fcos"):
        model.bbox_head.norm_cfg = NORMS.get(name, {"type": "GN", "num_groups": 4})
    if static:
        model.bbox_head.type = "Static" + model.bbox_head.type
    return config


def lively(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights drawn so that scores reach from 0.01 to 0.9 and boxes have sides of many sizes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                fan = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (2 / fan) ** 0.5)
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.running_mean.copy_(0.1 * torch.randn(module.num_features, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
    _spread(model.eval(), generator)
    return model


# Mean and spread of what the last layers give, over the finest level.
SPREAD = {"cls": (-3.0, 1.5), "reg": (2.5, 0.4), "centerness": (0.0, 1.0), "FSAFHead": (0.5, 0.5), "RetinaHead": (0, 0.5)}


@torch.no_grad()
def _spread(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Scale the last layers of the head by what they give on a random image."""
    pixels = 255 * torch.rand(1, 3, 96, 128, generator=generator)
    processor = model.data_preprocessor
    kind = type(model.bbox_head).__name__.removeprefix("Static")
    for name, layer in list(model.bbox_head.named_children()):
        part = name.partition("_")[2]
        if not isinstance(layer, torch.nn.Conv2d) or part not in SPREAD:
            continue
        seen: list[torch.Tensor] = []
        hook = layer.register_forward_hook(lambda _, __, out, seen=seen: seen.append(out.clone()))
        model.bbox_head(model.extract_feat((pixels - processor.mean) / processor.std))
        hook.remove()
        mean, spread = SPREAD[kind if part == "reg" and kind in SPREAD else part]
        factor = spread / float(seen[0].std())
        layer.weight.mul_(factor)
        layer.bias.mul_(factor).add_(mean - factor * float(seen[0].mean()))


def write_checkpoint(path: Path, config: Config, seed: int = 0) -> Path:
    """Build, fill and save as mmengine does."""
    from mmdet.registry import MODELS
    from mmengine.registry import DefaultScope

    import fcos_train.models  # noqa: F401  (registers the heads)

    with DefaultScope.overwrite_default_scope("mmdet"):
        model = lively(MODELS.build(config.model), seed)
    meta = {"cfg": config.pretty_text, "dataset_meta": {"classes": CLASSES}}
    torch.save({"meta": meta, "state_dict": model.state_dict()}, path)
    return path
