"""The overrides without fcos_train: a user's own config, started as mmdet's tools/train.py starts it."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.support.commands import environment, log_records

PROGRAM = """
import sys
from mmdet.utils import setup_cache_size_limit_of_dynamo
from mmengine.config import Config
from mmengine.runner import Runner

setup_cache_size_limit_of_dynamo()
cfg = Config.fromfile(sys.argv[1])
cfg.launcher, cfg.work_dir = "none", sys.argv[2]
Runner.from_cfg(cfg).train()
assert not [name for name in sys.modules if name.startswith("fcos_train")]
"""

CONFIG = """
_base_ = [{base!r}]
custom_imports = dict(imports=["mmcv_overrides.auto"])
randomness = dict(seed=0)
model = dict(
    backbone=dict(init_cfg=None, base_channels=8),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=32),
    bbox_head=dict(num_classes=3, in_channels=32, feat_channels=32, stacked_convs=1),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(64, 48), keep_ratio=True),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False,
    dataset=dict(data_root={data!r}, metainfo=dict(classes=("circle", "square", "triangle")), pipeline=train_pipeline),
)
val_dataloader = val_evaluator = val_cfg = test_dataloader = test_evaluator = test_cfg = None
train_cfg = dict(_delete_=True, type="EpochBasedTrainLoop", max_epochs=2)
optim_wrapper = dict({wrapper})
"""


def train(folder, shapes, wrapper):
    base = Path(find_spec("mmdet").origin).parent / ".mim" / "configs" / "retinanet" / "retinanet_r18_fpn_1x_coco.py"
    config, work_dir = folder / "own.py", folder / "run"
    folder.mkdir()
    config.write_text(CONFIG.format(base=str(base), data=f"{shapes}/", wrapper=wrapper))
    command = [sys.executable, "-c", PROGRAM, str(config), str(work_dir)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return work_dir


def test_a_config_of_mmdet_gets_mixed_precision_on_a_cpu_safe_checkpoints_fps_and_o2(shapes, tmp_path):
    work_dir = train(tmp_path / "amp", shapes, 'type="AmpOptimWrapper", loss_scale=32.0, dtype="bfloat16"')
    last = log_records(work_dir)[-1]
    assert last["loss"] > 0 and last["fps"] > 0
    checkpoint = torch.load(work_dir / "latest.pth", weights_only=True)
    assert checkpoint["optimizer"]["loss_scaler"]["scale"] == 32.0
    assert checkpoint["meta"]["iter"] == 12 and checkpoint["clocks"]["samples"] == 2 * (6 - 5) * 4
    lowered = train(tmp_path / "o2", shapes, 'type="OptimWrapper", opt_level="O2", amp_dtype="bf16", loss_scale=32.0')
    checkpoint = torch.load(lowered / "latest.pth", weights_only=True)
    assert checkpoint["state_dict"]["backbone.layer4.0.conv1.weight"].dtype is torch.bfloat16
    assert checkpoint["optimizer"]["masters"][-1].dtype is torch.float32  # of a weight that is trained
    assert log_records(lowered)[-1]["loss"] == pytest.approx(last["loss"], rel=0.02)
