"""Precedence: built-in defaults < config file < ``--cfg-options`` < flags that were given.

Each row writes a config file, merges options, gives flags, runs the functions that ``fcos-train train`` runs, and looks
at the config that the runner would be built from. Run: ``pytest tests/unit/config/test_prepare.py``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config

from fcos_train.config.load import configured, fill
from fcos_train.config.options import TrainOptions
from fcos_train.config.prepare import prepare
from mmcv_overrides import device
from mmcv_overrides.errors import UserError

TINY = "fcos/fcos_tiny_shapes"
VOC = "mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712"


def prepared(
    folder: Path, text: str = "", options: dict[str, Any] | None = None, base: str = TINY, kind: str = "cpu", **flags
) -> tuple[Config, list[str]]:
    """The final config and the log lines, for a config file with ``text`` over ``base``."""
    from fcos_train.config.load import find_config

    path = folder / "mine.py"
    path.write_text(f"_base_ = {str(find_config(base))!r}\n{text}\n")
    given = TrainOptions(config=str(path), cfg_options=options or {}, pretrained="none", launcher="none", **flags)
    cfg, special, notes = configured(given.config, given.cfg_options)
    accelerator = device.Accelerator(kind, "gloo", torch.bfloat16, "measured")
    return cfg, notes + prepare(cfg, fill(given, special), accelerator, folder / "run", None)


def at(cfg: Config, key: str) -> Any:
    """The value at a dotted key; list positions are numbers."""
    node: Any = cfg
    for part in key.split("."):
        node = node[int(part)] if isinstance(node, (list, tuple)) else node.get(part)
    return node


BACKEND = "dict(type='WandbVisBackend', init_kwargs=dict(project='p'))"
WANDB = f"visualizer = dict(type='DetLocalVisualizer', vis_backends=[{BACKEND}])"
AMP = "optim_wrapper = dict(type='AmpOptimWrapper', dtype='bfloat16')"
# config file, --cfg-options, flags, key of the final config, its value
ROWS = {
    "level: default": ("", {}, {}, "optim_wrapper.opt_level", "O1"),
    "level: file": ("optim_wrapper = dict(opt_level='O0')", {}, {}, "optim_wrapper.opt_level", "O0"),
    "level: option over file": (
        "optim_wrapper = dict(opt_level='O0')",
        {"optim_wrapper.opt_level": "O2"},
        {},
        "optim_wrapper.opt_level",
        "O2",
    ),
    "level: flag over option": (
        "",
        {"optim_wrapper.opt_level": "O2"},
        {"opt_level": "O0"},
        "optim_wrapper.opt_level",
        "O0",
    ),
    "level: AmpOptimWrapper is O1": (AMP, {}, {}, "optim_wrapper.opt_level", "O1"),
    "half type: that of AmpOptimWrapper": (
        AMP.replace("bfloat16", "float16"),
        {},
        {},
        "optim_wrapper.amp_dtype",
        "float16",
    ),
    "half type: flag over file": (AMP, {}, {"amp_dtype": "fp16"}, "optim_wrapper.amp_dtype", "float16"),
    "wrapper type is ours": (AMP, {}, {}, "optim_wrapper.type", "OptimWrapper"),
    "scale: default": ("", {}, {}, "optim_wrapper.loss_scale", 32.0),
    "scale: AmpOptimWrapper is dynamic": (AMP, {}, {}, "optim_wrapper.loss_scale", "dynamic"),
    "scale: file": ("optim_wrapper = dict(loss_scale=512.0)", {}, {}, "optim_wrapper.loss_scale", 512.0),
    "scale: option over file": (
        "optim_wrapper = dict(loss_scale=512.0)",
        {"optim_wrapper.loss_scale": 8.0},
        {},
        "optim_wrapper.loss_scale",
        8.0,
    ),
    "scale: flag over 2.x key": (
        "",
        {"loss_scale": 8.0},
        {"loss_scale": "dynamic"},
        "optim_wrapper.loss_scale",
        "dynamic",
    ),
    "scale: 2.x key over file": (
        "optim_wrapper = dict(loss_scale=512.0)",
        {"loss_scale": 8.0},
        {},
        "optim_wrapper.loss_scale",
        8.0,
    ),
    "seed: default is drawn": ("", {}, {}, "randomness.seed", None),
    "seed: file": ("randomness = dict(seed=5)", {}, {}, "randomness.seed", 5),
    "seed: 2.x key reaches the run": ("", {"seed": 3}, {}, "randomness.seed", 3),
    "seed: option over file": ("randomness = dict(seed=5)", {"randomness.seed": 7}, {}, "randomness.seed", 7),
    "seed: flag over option": ("", {"randomness.seed": 7}, {"seed": 0}, "randomness.seed", 0),
    "seed: other settings stay": (
        "randomness = dict(seed=5, diff_rank_seed=True)",
        {},
        {"seed": 1},
        "randomness.diff_rank_seed",
        True,
    ),
    "deterministic: file": ("randomness = dict(deterministic=True)", {}, {}, "randomness.deterministic", True),
    "deterministic: flag": ("", {}, {"deterministic": True}, "randomness.deterministic", True),
    "visualizer: default": ("", {}, {}, "visualizer.vis_backends.0.type", "TensorboardVisBackend"),
    "visualizer: own backend": (WANDB, {}, {}, "visualizer.vis_backends.0.init_kwargs.project", "p"),
    "visualizer: TensorBoard beside it": (WANDB, {}, {}, "visualizer.vis_backends.1.type", "TensorboardVisBackend"),
    "visualizer: option": (
        "",
        {"visualizer": {"type": "DetLocalVisualizer", "vis_backends": [{"type": "MLflowVisBackend"}], "line_width": 5}},
        {},
        "visualizer.line_width",
        5,
    ),
    "visualizer: backends alone": (
        "",
        {"visualizer.vis_backends": [{"type": "LocalVisBackend"}]},
        {},
        "visualizer.type",
        "DetLocalVisualizer",
    ),
    "visualizer: own folder": (
        "visualizer = dict(type='DetLocalVisualizer', save_dir='curves')",
        {},
        {},
        "visualizer.save_dir",
        "curves",
    ),
    "evaluator: ours by default": ("", {}, {}, "val_evaluator.type", "FastCocoMetric"),
    "evaluator: settings of the file": (
        "val_evaluator = dict(classwise=False, iou_thrs=[0.5, 0.75])",
        {},
        {},
        "val_evaluator.iou_thrs",
        [0.5, 0.75],
    ),
    "evaluator: settings of mmdet's metric": (
        "val_evaluator = dict(_delete_=True, type='CocoMetric', ann_file='x.json', outfile_prefix='here/mine')",
        {},
        {},
        "val_evaluator.outfile_prefix",
        "here/mine",
    ),
    "evaluator: option": (
        "",
        {"test_evaluator.proposal_nums": (1, 10, 300)},
        {},
        "test_evaluator.proposal_nums",
        (1, 10, 300),
    ),
    "hooks: interval of the file": (
        "default_hooks = dict(logger=dict(interval=7))",
        {},
        {},
        "default_hooks.logger.interval",
        7,
    ),
    "hooks: kept checkpoints": (
        "default_hooks = dict(checkpoint=dict(max_keep_ckpts=-1))",
        {},
        {},
        "default_hooks.checkpoint.max_keep_ckpts",
        -1,
    ),
    "hooks: save_best off": (
        "default_hooks = dict(checkpoint=dict(save_best=None))",
        {},
        {},
        "default_hooks.checkpoint.save_best",
        None,
    ),
    "hooks: own hook stays": (
        "custom_hooks = [dict(type='EMAHook', momentum=0.01)]",
        {},
        {},
        "custom_hooks.0.momentum",
        0.01,
    ),
    "env: file": ("env_cfg = dict(cudnn_benchmark=False)", {}, {}, "env_cfg.cudnn_benchmark", False),
    "env: option": ("", {"env_cfg.mp_cfg.opencv_num_threads": 2}, {}, "env_cfg.mp_cfg.opencv_num_threads", 2),
    "batch: option": ("", {"train_dataloader.batch_size": 3}, {}, "train_dataloader.batch_size", 3),
    "batch: flag over option": (
        "",
        {"train_dataloader.batch_size": 3},
        {"batch_size": 5},
        "train_dataloader.batch_size",
        5,
    ),
    "workers: flag over file": (
        "train_dataloader = dict(num_workers=1)",
        {},
        {"workers": 0},
        "train_dataloader.num_workers",
        0,
    ),
    "persistent workers: file": (
        "train_dataloader = dict(num_workers=1, persistent_workers=False)",
        {},
        {},
        "train_dataloader.persistent_workers",
        False,
    ),
    "clip: file": ("optim_wrapper = dict(clip_grad=dict(max_norm=1))", {}, {}, "optim_wrapper.clip_grad.max_norm", 1),
    "clip: none is a wish": ("optim_wrapper = dict(clip_grad=None)", {}, {}, "optim_wrapper.clip_grad", None),
    "lr: option is taken as it is": (
        "",
        {"optim_wrapper.optimizer.lr": 0.003},
        {"batch_size": 4},
        "optim_wrapper.optimizer.lr",
        0.003,
    ),
    "lr: scaled from the file": (
        "optim_wrapper = dict(optimizer=dict(lr=0.016))\nauto_scale_lr = dict(base_batch_size=16)",
        {},
        {"batch_size": 4},
        "optim_wrapper.optimizer.lr",
        0.004,
    ),
    "lr: scaling off by option": (
        "optim_wrapper = dict(optimizer=dict(lr=0.016))",
        {"auto_scale_lr.enable": False},
        {"batch_size": 4},
        "optim_wrapper.optimizer.lr",
        0.016,
    ),
    "lr: base of the flag": (
        "optim_wrapper = dict(optimizer=dict(lr=0.016))\nauto_scale_lr = dict(base_batch_size=16)",
        {},
        {"batch_size": 4, "lr_base": 8},
        "optim_wrapper.optimizer.lr",
        0.008,
    ),
    "length: flag over 2.x key": ("", {"max_iters": 50}, {"max_iters": 7}, "train_cfg.max_iters", 7),
    "length: 2.x key": ("", {"max_iters": 50}, {}, "train_cfg.max_iters", 50),
    "weights: file": ("load_from = 'w.pth'", {}, {}, "load_from", "w.pth"),
    "data: filter of the file stays": (
        "train_dataloader = dict(dataset=dict(filter_cfg=dict(filter_empty_gt=False)))",
        {},
        {},
        "train_dataloader.dataset.filter_cfg.filter_empty_gt",
        False,
    ),
    "lr: flag over option": (
        "optim_wrapper = dict(optimizer=dict(lr=0.5))",
        {"optim_wrapper.optimizer.lr": 0.25},
        {"lr": 0.125},
        "optim_wrapper.optimizer.lr",
        0.125,
    ),
    "lr: flag is not scaled": ("", {}, {"lr": 0.125, "batch_size": 32}, "optim_wrapper.optimizer.lr", 0.125),
    "lr: follows accumulated batches": (
        "auto_scale_lr = dict(base_batch_size=4)\noptim_wrapper = dict(optimizer=dict(lr=0.5))",
        {},
        {"accumulate": 3, "batch_size": 8},
        "optim_wrapper.optimizer.lr",
        3.0,
    ),
    "accumulate: flag over option": (
        "optim_wrapper = dict(accumulative_counts=2)",
        {"optim_wrapper.accumulative_counts": 3},
        {"accumulate": 4},
        "optim_wrapper.accumulative_counts",
        4,
    ),
    "accumulate: file": (
        "optim_wrapper = dict(accumulative_counts=2)",
        {},
        {},
        "optim_wrapper.accumulative_counts",
        2,
    ),
    "interval: flag over option": ("", {"train_cfg.val_interval": 3}, {"eval_every": 5}, "train_cfg.val_interval", 5),
    "interval: flag over the short run": ("", {}, {"eval_every": 2, "max_epochs": 3}, "train_cfg.val_interval", 2),
    "patience: of the hook in the file": (
        "custom_hooks = [dict(type='EarlyStoppingHook', monitor='bbox_mAP_50', patience=9)]",
        {},
        {"patience": 2},
        "custom_hooks.0",
        {"type": "EarlyStoppingHook", "monitor": "bbox_mAP_50", "patience": 2},
    ),
    "average: that of the file": (
        "custom_hooks = [dict(type='EMAHook', momentum=0.5)]",
        {},
        {"ema": True},
        "custom_hooks.0",
        {"type": "EMAHook", "momentum": 0.5},
    ),
    "empty images: flag over file": (
        "train_dataloader = dict(dataset=dict(filter_cfg=dict(filter_empty_gt=True)))",
        {},
        {"keep_empty": True},
        "train_dataloader.dataset.filter_cfg.filter_empty_gt",
        False,
    ),
    "size: flag over option": (
        "",
        {"train_dataloader.dataset.pipeline.2.scale": (64, 64)},
        {"img_size": (128, 96)},
        "train_dataloader.dataset.pipeline.2.scale",
        (128, 96),
    ),
    "size: of the evaluation too": (
        "",
        {},
        {"img_size": (128, 96)},
        "val_dataloader.dataset.pipeline.1.scale",
        (128, 96),
    ),
    "logger: beside the file's": (
        WANDB,
        {},
        {"logger": ("tensorboard",)},
        "visualizer.vis_backends.0.type",
        "WandbVisBackend",
    ),
    "logger: once": (
        "visualizer = dict(vis_backends=[dict(type='TensorboardVisBackend', save_dir='mine')])",
        {},
        {"logger": ("tensorboard",)},
        "visualizer.vis_backends",
        [{"type": "TensorboardVisBackend", "save_dir": "mine"}],
    ),
    "balance: flag over file": (
        "train_dataloader = dict(dataset=dict(_delete_=True, type='ClassBalancedDataset', oversample_thr=0.5, "
        "dataset=_base_.train_dataloader.dataset))",
        {},
        {"balance": 0.75},
        "train_dataloader.dataset.oversample_thr",
        0.75,
    ),
}


@pytest.fixture
def with_bf16(monkeypatch) -> None:
    """A processor with instructions for bfloat16."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)


@pytest.mark.parametrize(
    ("text", "flags", "level"),
    [
        ("", {}, "O0"),
        ("", {"opt_level": "O1"}, "O1"),
        ("", {"amp_dtype": "bf16"}, "O1"),
        ("optim_wrapper = dict(opt_level='O1')", {}, "O1"),
        (AMP, {}, "O1"),
    ],
)
def test_where_bf16_is_emulated_the_default_level_is_o0(text, flags, level, monkeypatch, tmp_path, shapes):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    cfg, notes = prepared(tmp_path, text, data_path=str(shapes), **flags)
    assert cfg.optim_wrapper.opt_level == level
    assert any("the default here: this processor only emulates bfloat16" in line for line in notes) == (level == "O0")


@pytest.mark.parametrize("row", ROWS)
def test_precedence(row, tmp_path, shapes, with_bf16):
    text, options, flags, key, expected = ROWS[row]
    cfg, _ = prepared(tmp_path, text, options, data_path=str(shapes), **flags)
    found = at(cfg, key)
    assert (pytest.approx(expected) == found) if isinstance(expected, float) else (found == expected)


# what is changed all the same, and the line that says so
CHANGES = {
    "workers": ("train_dataloader = dict(num_workers=99)", {}, "train_dataloader: num_workers 99 -> "),
    "pinned": ("train_dataloader = dict(pin_memory=True)", {}, "pin_memory True -> False"),
    "classes": (
        "train_dataloader = dict(dataset=dict(metainfo=dict(classes=('cat', 'dog'))))",
        {},
        "classes cat, dog of the config -> ",
    ),
    "num_classes": ("model = dict(bbox_head=dict(num_classes=80))", {}, "num_classes 80 -> 3"),
    "masks": ("val_evaluator = dict(metric=['bbox', 'segm'])", {}, "metric segm is left out: no box in "),
    "limits": ("val_evaluator = dict(proposal_nums=(100, 1, 10))", {}, "proposal_nums (100, 1, 10) -> (1, 10, 100)"),
    "one limit": ("val_evaluator = dict(proposal_nums=[300])", {}, "proposal_nums (300,) -> (1, 10, 300)"),
    "metric name": (
        "default_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP_50'))",
        {},
        "default_hooks.checkpoint.save_best: coco/bbox_mAP_50 -> bbox_mAP_50",
    ),
    "best without validation": (
        "default_hooks = dict(checkpoint=dict(save_best='bbox_mAP'))",
        {"validate": False},
        "no best checkpoint is kept: this run has no validation",
    ),
    "clip": ("optim_wrapper = dict(_delete_=True, optimizer=dict(type='SGD', lr=0.01))", {}, "gradient clip on"),
    "warm-up": (
        "param_scheduler = [dict(type='LinearLR', by_epoch=False, begin=0, end=900)]",
        {},
        "shortened from 900",
    ),
}


@pytest.mark.parametrize("row", CHANGES)
def test_a_change_is_said(row, tmp_path, shapes):
    text, flags, line = CHANGES[row]
    _, notes = prepared(tmp_path, text, data_path=str(shapes), **flags)
    assert any(line in note for note in notes), notes


REFUSALS = {
    "wrapper type": (
        "optim_wrapper = dict(type='DeepSpeedOptimWrapper')",
        {},
        "optim_wrapper.type DeepSpeedOptimWrapper",
    ),
    "fsdp": ("optim_wrapper = dict(use_fsdp=True)", {}, "use_fsdp is not supported"),
    "unknown metric": (
        "custom_hooks = [dict(type='EarlyStoppingHook', monitor='coco/box_mAP_50')]",
        {},
        r"no 'coco/box_mAP_50'; did you mean bbox_mAP_50\?",
    ),
    "plateau without a metric": (
        "param_scheduler = [dict(type='ReduceOnPlateauLR', by_epoch=True)]",
        {},
        "reports no 'val_loss'",
    ),
    "stopping without validation": (
        "custom_hooks = [dict(type='EarlyStoppingHook', monitor='bbox_mAP')]",
        {"validate": False},
        "this run has no validation",
    ),
    "epochs of iterations": (
        "train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=10)",
        {"max_epochs": 2},
        "counts iterations",
    ),
}


@pytest.mark.parametrize("row", REFUSALS)
def test_refused_at_the_start(row, tmp_path, shapes):
    text, flags, message = REFUSALS[row]
    with pytest.raises(UserError, match=message):
        prepared(tmp_path, text, data_path=str(shapes), **flags)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("custom_hooks = [dict(type='EarlyStoppingHook', monitor='coco/bbox_mAP')]", "custom_hooks.0.monitor"),
        ("param_scheduler = [dict(type='ReduceOnPlateauLR', monitor='coco/bbox_mAP')]", "param_scheduler.1.monitor"),
        ("default_hooks = dict(checkpoint=dict(save_best=['coco/bbox_mAP']))", "default_hooks.checkpoint.save_best.0"),
    ],
)
def test_metric_names_of_mmdet_are_translated(text, key, tmp_path, shapes):
    cfg, _ = prepared(tmp_path, text, data_path=str(shapes))
    assert at(cfg, key) == "bbox_mAP"


def test_a_metric_of_another_type_is_kept(tmp_path, shapes):
    cfg, notes = prepared(tmp_path, base=VOC, data_path=str(shapes))
    assert [part.type for part in cfg.val_evaluator] == ["VOCMetric", "FastCocoMetric"]
    assert "val_evaluator: VOCMetric is kept; FastCocoMetric is added for bbox_mAP" in notes
    leaf = cfg.val_dataloader.dataset
    assert leaf.type == "BoxDataset" and leaf.metainfo.dataset_type in ("VOC2007", "VOC2012")
    assert cfg.default_hooks.checkpoint.save_best == "bbox_mAP"


def test_a_config_that_a_training_wrote_trains_the_same_again(tmp_path, shapes):
    """Its learning rate is scaled already, its curves go to the new folder, its settings stay."""
    (tmp_path / "first").mkdir()
    first, _ = prepared(tmp_path / "first", data_path=str(shapes), seed=11, batch_size=4)
    first.dump(tmp_path / "first" / "config.py")
    (tmp_path / "second").mkdir()
    second, notes = prepared(tmp_path / "second", base=str(tmp_path / "first" / "config.py"))
    assert second.optim_wrapper.optimizer.lr == first.optim_wrapper.optimizer.lr
    assert second.visualizer.save_dir == str(tmp_path / "second" / "run" / "tb")
    assert (second.randomness.seed, second.train_dataloader.batch_size) == (11, 4)
    assert sorted(second.custom_hooks, key=str) == sorted(first.custom_hooks, key=str)
    assert second.param_scheduler == first.param_scheduler
