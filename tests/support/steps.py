"""A small detector with a fixed-shape head, its optimizer and batches: what a training step needs."""

from __future__ import annotations

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData

import fcos_train.models  # noqa: F401  (registers the heads)
from fcos_train.data.batch import fixed_shape_collate
from mmcv_overrides import precision
from mmcv_overrides.optimizer import StepOptimWrapper

from .small_detectors import CLASSES, lively, small_config


def small_model(name: str, seed: int = 0) -> torch.nn.Module:
    """One of ``small_detectors.SHIPPED`` with its fixed-shape head, ready to train."""
    config = small_config(name, fixed_shape=True).model
    config.data_preprocessor.type = "FixedShapePreprocessor"
    with DefaultScope.overwrite_default_scope("mmdet"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = lively(MODELS.build(config), seed)
    return precision.keep_losses_fp32(model).train()


def sgd(model: torch.nn.Module, lr: float = 1e-3, **kwargs) -> StepOptimWrapper:
    """The trainer's step around a fused SGD."""
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(params, lr=lr, momentum=0.9, weight_decay=1e-4, fused=True)
    return StepOptimWrapper(optimizer, clip_grad=dict(max_norm=35, norm_type=2), **kwargs)


def batch(seed: int, size: tuple[int, int] = (64, 96), objects: tuple[int, ...] = (3, 0)) -> dict:
    """What the loader gives: random pixels u8 and boxes of a third of the image, so many for each image."""
    generator = torch.Generator().manual_seed(seed)
    sides = torch.tensor([size[1], size[0]])
    items = []
    for count in objects:
        near = torch.rand(count, 2, generator=generator) * 0.6 * sides
        far = near + (0.1 + 0.3 * torch.rand(count, 2, generator=generator)) * sides
        about = {"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0), "img_path": f"{seed}.jpg"}
        sample = DetDataSample(metainfo=about)
        labels = torch.randint(0, len(CLASSES), (count,), generator=generator)
        sample.gt_instances = InstanceData(bboxes=torch.cat((near, far), 1), labels=labels)
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
        items.append({"inputs": image, "data_samples": sample})
    return fixed_shape_collate(items, shapes=[size])
