"""A detector small enough to build in a test: FCOS on ResNet-18 with 16 channels, random weights, three classes."""

import copy

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

CLASSES = ("circle", "square", "triangle")

MODEL = {
    "type": "FCOS",
    "data_preprocessor": {
        "type": "DetDataPreprocessor",
        "mean": [103.53, 116.28, 123.675],
        "std": [1.0, 1.0, 1.0],
        "bgr_to_rgb": False,
        "pad_size_divisor": 32,
    },
    "backbone": {
        "type": "ResNet",
        "depth": 18,
        "base_channels": 8,
        "norm_cfg": {"type": "BN"},
        "init_cfg": {"type": "Pretrained", "checkpoint": "torchvision://resnet18"},
    },
    "neck": {
        "type": "FPN",
        "in_channels": [8, 16, 32, 64],
        "out_channels": 16,
        "start_level": 1,
        "add_extra_convs": "on_output",
        "num_outs": 5,
        "relu_before_extra_convs": True,
    },
    "bbox_head": {
        "type": "FCOSHead",
        "num_classes": 3,
        "in_channels": 16,
        "stacked_convs": 1,
        "feat_channels": 16,
        "norm_cfg": {"type": "GN", "num_groups": 4},
    },
    "test_cfg": {
        "nms_pre": 100,
        "min_bbox_size": 0,
        "score_thr": 0.0,
        "nms": {"type": "nms", "iou_threshold": 0.5},
        "max_per_img": 7,
    },
}
PIPELINE = [
    {"type": "LoadImageFromFile"},
    {"type": "Resize", "scale": (160, 128), "keep_ratio": True},
    {"type": "LoadAnnotations", "with_bbox": True},
    {"type": "PackDetInputs", "meta_keys": ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")},
]


@pytest.fixture
def config() -> Config:
    dataset = {
        "type": "CocoDataset",
        "ann_file": "annotations/instances_val2017.json",
        "data_prefix": {"img": "val2017/"},
        "data_root": "nowhere/",
        "pipeline": PIPELINE,
    }
    loader = {"dataset": dataset, "batch_size": 1, "num_workers": 0, "sampler": {"type": "DefaultSampler"}}
    return Config(
        copy.deepcopy({"default_scope": "mmdet", "model": MODEL, "val_dataloader": loader, "test_dataloader": loader})
    )


@pytest.fixture
def make_checkpoint(tmp_path):
    """Write a checkpoint as mmengine does: weights, and the text of the configuration in ``meta``."""

    def make(config: Config, text: str | None = None, name: str = "tiny.pth", **meta):
        from mmdet.registry import MODELS

        from fcos_train.config.vetting import without_pretrained

        torch.manual_seed(0)
        from mmengine.registry import DefaultScope

        with DefaultScope.overwrite_default_scope("mmdet"):
            model = MODELS.build(without_pretrained(config.model))
        meta = {"cfg": config.pretty_text if text is None else text, "dataset_meta": {"classes": CLASSES}} | meta
        path = tmp_path / name
        torch.save({"meta": meta, "state_dict": model.state_dict()}, path)
        return path

    return make


@pytest.fixture
def picture() -> np.ndarray:
    """[96, 120, 3] BGR with two bright boxes."""
    image = np.full((96, 120, 3), 40, np.uint8)
    cv2.rectangle(image, (10, 10), (50, 60), (30, 200, 250), cv2.FILLED)
    cv2.rectangle(image, (70, 40), (110, 90), (220, 60, 20), cv2.FILLED)
    return image
