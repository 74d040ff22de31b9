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
    "fcos-dcn": "fcos/fcos_r50-dcn-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py",
    "fsaf": "fsaf/fsaf_r50_fpn_1x_coco.py",
    "retinanet": "retinanet/retinanet_r50_fpn_1x_coco.py",
}
NORMS = {"fcos-gn": {"type": "GN", "num_groups": 4}, "fcos-bn": {"type": "BN"}, "fcos-plain": None}


def shipped(path: str) -> Path:
    """A configuration file that mmdet brings along."""
    return Path(find_spec("mmdet").origin).parent / ".mim" / "configs" / path


def small_config(name: str, fixed_shape: bool = False) -> Config:
    """One of :data:`SHIPPED` with ResNet-18 of 8 channels (50 where its blocks have deformable convolutions), a neck of
    16 and one tower convolution."""
    config = Config.fromfile(str(shipped(SHIPPED[name])))
    model = config.model
    depth, widths = (50, [32, 64, 128, 256]) if name == "fcos-dcn" else (18, [8, 16, 32, 64])
    model.backbone.update(depth=depth, base_channels=8, init_cfg=None, norm_cfg={"type": "BN"}, style="pytorch")
    model.neck.update(in_channels=widths, out_channels=16)
    model.bbox_head.update(in_channels=16, feat_channels=16, stacked_convs=1, num_classes=len(CLASSES))
    if name.startswith("fcos"):
        model.bbox_head.norm_cfg = NORMS.get(name, {"type": "GN", "num_groups": 4})
    if fixed_shape:
        model.bbox_head.type = "FixedShape" + model.bbox_head.type
    return config


def small_cascade() -> Config:
    """mmdet's Cascade R-CNN with ResNet-18 of 8 channels and few proposals that do not suppress each other.

    CANN suppresses all levels of the RPN together, PyTorch level by level. Boxes of different levels hardly ever have
    an IoU of 0.95, even with random weights.
    """
    config = Config.fromfile(str(shipped("cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py")))
    model = config.model
    model.backbone.update(depth=18, base_channels=8, init_cfg=None, style="pytorch")
    model.neck.update(in_channels=[8, 16, 32, 64], out_channels=32)
    model.rpn_head.update(in_channels=32, feat_channels=32)
    model.roi_head.bbox_roi_extractor.out_channels = 32
    for head in model.roi_head.bbox_head:
        head.update(in_channels=32, fc_out_channels=64, num_classes=len(CLASSES))
    model.test_cfg.rpn.update(nms_pre=40, nms={"type": "nms", "iou_threshold": 0.95})
    config.test_dataloader.dataset.pipeline[1].scale = (128, 96)
    return config


def lively(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights drawn so that scores reach from 0.01 to 0.9 and boxes have sides of many sizes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                fan = parameter[0].numel()
                # two-stage networks are deeper: a smaller gain keeps their residual sums in bounds
                gain = 1 if hasattr(model, "roi_head") else 2
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * (gain / fan) ** 0.5)
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.running_mean.copy_(0.1 * torch.randn(module.num_features, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
    _spread(model.eval(), generator)
    return model


# Mean and spread of what the last layers give, over the finest level or a few hundred regions.
SPREAD = {
    "cls": (-3.0, 1.5), "reg": (2.5, 0.4), "centerness": (0.0, 1.0), "FSAFHead": (0.5, 0.5), "RetinaHead": (0, 0.5),
    "rpn_cls": (-2.0, 2.0), "rpn_reg": (0.0, 0.3), "fc_cls": (0.0, 5.0), "fc_reg": (0.0, 0.5),
}  # fmt: skip


@torch.no_grad()
def _spread(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Scale the last layers of the head by what they give on a random image."""
    pixels = 255 * torch.rand(1, 3, 96, 128, generator=generator)
    processor = model.data_preprocessor
    pixels = (pixels - processor.mean) / processor.std
    for path, layer in model.backbone.named_modules():
        if path.endswith("conv_offset"):  # of a deformable convolution, in px
            _scale(layer, (0.0, 1.0), lambda: model.backbone(pixels))
    feats = model.extract_feat(pixels)
    if not hasattr(model, "roi_head"):
        for path, layer in model.bbox_head.named_modules():
            if path.endswith("conv_offset"):
                _scale(layer, (0.0, 1.0), lambda: model.bbox_head(feats))
        kind = type(model.bbox_head).__name__.removeprefix("FixedShape")
        for name, layer in list(model.bbox_head.named_children()):
            part = name.partition("_")[2]
            if isinstance(layer, torch.nn.Conv2d) and part in SPREAD:
                wish = SPREAD[kind if part == "reg" and kind in SPREAD else part]
                _scale(layer, wish, lambda: model.bbox_head(feats))
        return
    for name in ("rpn_cls", "rpn_reg"):
        _scale(getattr(model.rpn_head, name), SPREAD[name], lambda: model.rpn_head(feats))
    corner = torch.rand(300, 2, generator=generator) * 80
    sides = torch.exp(2 + 3 * torch.rand(300, 2, generator=generator))
    regions = torch.cat((torch.zeros(300, 1), corner, corner + sides), 1)
    parts = model.roi_head.bbox_head, model.roi_head.bbox_roi_extractor
    stages = zip(*parts, strict=True) if isinstance(parts[0], torch.nn.ModuleList) else [parts]
    for head, extractor in stages:
        pooled = extractor(feats[: extractor.num_inputs], regions)
        for name in ("fc_cls", "fc_reg"):
            _scale(getattr(head, name), SPREAD[name], lambda head=head, pooled=pooled: head(pooled))


def _scale(layer: torch.nn.Module, wish: tuple[float, float], run) -> None:
    """Give the first output of a layer in ``run`` the wished mean and spread."""
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_hook(lambda _, __, out: seen.append(out.clone()))
    run()
    hook.remove()
    factor = wish[1] / float(seen[0].std())
    layer.weight.mul_(factor)
    layer.bias.mul_(factor).add_(wish[0] - factor * float(seen[0].mean()))


def write_checkpoint(path: Path, config: Config, seed: int = 0, classes: tuple[str, ...] = CLASSES) -> Path:
    """Build, fill and save as mmengine does."""
    from mmdet.registry import MODELS
    from mmengine.registry import DefaultScope

    import fcos_train.models  # noqa: F401  (registers the heads)

    with DefaultScope.overwrite_default_scope("mmdet"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of what `lively` leaves: biases
        model = lively(MODELS.build(config.model), seed)
    meta = {"cfg": config.pretty_text, "dataset_meta": {"classes": classes}}
    torch.save({"meta": meta, "state_dict": model.state_dict()}, path)
    return path
