"""mmdet 2.x keys of --cfg-options become 3.x keys that fit a real config; 2.x files are refused."""

import os
from pathlib import Path

import mmdet
import pytest
from mmengine.config import Config

from fcos_train.config.keys.check import SPECIAL_KEYS, check_keys, check_options, merge_options
from fcos_train.config.keys.v2 import reject_v2_file, translate_v2
from mmcv_overrides.errors import UserError

FCOS = Path(mmdet.__file__).parent / ".mim" / "configs" / "fcos" / "fcos_r50-caffe_fpn_gn-head_1x_coco.py"

# old key, value, expected result
CASES = [
    ("optimizer.lr", 0.00125, {"optim_wrapper.optimizer.lr": 0.00125}),
    ("optimizer.type", "AdamW", {"optim_wrapper.optimizer.type": "AdamW"}),
    ("optimizer", dict(type="SGD", lr=1), {"optim_wrapper.optimizer": dict(type="SGD", lr=1)}),
    ("optimizer.paramwise_cfg.bias_lr_mult", 2.0, {"optim_wrapper.paramwise_cfg.bias_lr_mult": 2.0}),
    ("optimizer_config.grad_clip.max_norm", 35, {"optim_wrapper.clip_grad.max_norm": 35}),
    ("optimizer_config.grad_clip", None, {"optim_wrapper.clip_grad": None}),
    ("optimizer_config.cumulative_iters", 4, {"optim_wrapper.accumulative_counts": 4}),
    ("grad_clip.norm_type", 2, {"optim_wrapper.clip_grad.norm_type": 2}),
    ("grad_clip", dict(max_norm=3), {"optim_wrapper.clip_grad": dict(max_norm=3)}),
    ("optim_wrapper.grad_clip.max_norm", 3, {"optim_wrapper.clip_grad.max_norm": 3}),
    ("data_root", "data/coco", {"data_root": "data/coco"}),
    ("data.samples_per_gpu", 16, {"train_dataloader.batch_size": 16}),
    (
        "data.workers_per_gpu",
        2,
        {f"{split}_dataloader.num_workers": 2 for split in ("train", "val", "test")},
    ),
    ("data.train.ann_file", "/d/a.json", {"train_dataloader.dataset.ann_file": "/d/a.json"}),
    ("data.train.img_prefix", "/d/train/", {"train_dataloader.dataset.data_prefix.img": "/d/train/"}),
    ("data.val.ann_file", "/d/b.json", {"val_dataloader.dataset.ann_file": "/d/b.json"}),
    ("data.test.img_prefix", "/d/t/", {"test_dataloader.dataset.data_prefix.img": "/d/t/"}),
    ("data.train.pipeline", [dict(type="X")], {"train_dataloader.dataset.pipeline": [dict(type="X")]}),
    ("data.train.pipeline.2.keep_ratio", False, {"train_dataloader.dataset.pipeline.2.keep_ratio": False}),
    ("data.train.classes", ("a", "b"), {"train_dataloader.dataset.metainfo.classes": ("a", "b")}),
    ("data.train.filter_empty_gt", False, {"train_dataloader.dataset.filter_cfg.filter_empty_gt": False}),
    ("data.train.dataset.ann_file", "/d/a.json", {"train_dataloader.dataset.dataset.ann_file": "/d/a.json"}),
    ("data.val.samples_per_gpu", 4, {"val_dataloader.batch_size": 4}),
    ("data.test_dataloader.samples_per_gpu", 4, {"test_dataloader.batch_size": 4}),
    ("total_epochs", 1, {"train_cfg.max_epochs": 1}),
    ("runner.max_epochs", 24, {"train_cfg.max_epochs": 24}),
    ("runner.max_iters", 9, {"train_cfg.max_iters": 9}),
    ("runner.type", "IterBasedRunner", {"train_cfg.type": "IterBasedTrainLoop"}),
    ("max_step", 2000, {"max_iters": 2000}),
    ("evaluation.interval", 2, {"train_cfg.val_interval": 2}),
    ("evaluation.metric", ["bbox"], {"val_evaluator.metric": ["bbox"], "test_evaluator.metric": ["bbox"]}),
    ("evaluation.save_best", "bbox_mAP", {"default_hooks.checkpoint.save_best": "bbox_mAP"}),
    ("checkpoint_config.interval", 3, {"default_hooks.checkpoint.interval": 3}),
    ("checkpoint_config.max_keep_ckpts", 2, {"default_hooks.checkpoint.max_keep_ckpts": 2}),
    ("log_config.interval", 1, {"default_hooks.logger.interval": 1}),
    ("lr_config.step", [16, 22], {"param_scheduler.1.milestones": [16, 22]}),
    ("lr_config.step", 8, {"param_scheduler.1.milestones": [8]}),
    ("lr_config.gamma", 0.5, {"param_scheduler.1.gamma": 0.5}),
    ("lr_config.policy", "step", {"param_scheduler.1.type": "MultiStepLR"}),
    ("lr_config.warmup", "constant", {"param_scheduler.0.type": "ConstantLR"}),
    ("lr_config.warmup_iters", 1000, {"param_scheduler.0.end": 1000}),
    ("lr_config.warmup_ratio", 0.1, {"param_scheduler.0.start_factor": 0.1}),
    ("fp16.loss_scale", 512.0, {"loss_scale": 512.0}),
    ("load_from", "x.pth", {"load_from": "x.pth"}),
    ("resume_from", "x.pth", {"load_from": "x.pth", "resume": True}),
    (
        "model.pretrained",
        "torchvision://resnet50",
        {"model.backbone.init_cfg": dict(type="Pretrained", checkpoint="torchvision://resnet50")},
    ),
    ("model.pretrained", None, {"model.backbone.init_cfg": None}),
    ("train_cfg.assigner.pos_iou_thr", 0.6, {"model.train_cfg.assigner.pos_iou_thr": 0.6}),
    ("test_cfg.score_thr", 0.1, {"model.test_cfg.score_thr": 0.1}),
    ("model.test_cfg.score_thr", 0.1, {"model.test_cfg.score_thr": 0.1}),
    ("seed", 3, {"randomness.seed": 3}),
    ("deterministic", True, {"randomness.deterministic": True}),
    ("cudnn_benchmark", True, {"env_cfg.cudnn_benchmark": True}),
    ("opencv_num_threads", 1, {"env_cfg.mp_cfg.opencv_num_threads": 1}),
    ("dist_params.backend", "gloo", {"env_cfg.dist_cfg.backend": "gloo"}),
]


@pytest.mark.parametrize("key, value, expected", CASES, ids=[c[0] for c in CASES])
def test_key_is_translated(key, value, expected):
    result, notices = translate_v2({key: value})
    assert result == expected
    unchanged = list(expected) == [key] and key not in SPECIAL_KEYS
    assert len(notices) == (0 if unchanged else 1)
    assert all(notice.startswith(f"option {key} -> ") for notice in notices)


# What does not fit this config: no RepeatDataset, no assigner in FCOS, a pipeline entry of an unknown type.
ELSEWHERE = {
    "data.train.dataset.ann_file",
    "train_cfg.assigner.pos_iou_thr",
    "data.train.pipeline",
    "runner.type",
}


@pytest.mark.parametrize(
    "key, value",
    [(k, v) for k, v, _ in CASES if k not in ELSEWHERE and k not in ("runner.max_iters", "optimizer.type")],
)
def test_translated_key_fits_a_real_config(key, value):
    cfg = Config.fromfile(str(FCOS))
    result, _ = translate_v2({key: value}, cfg)
    merge_options(cfg, {k: v for k, v in result.items() if k not in SPECIAL_KEYS})
    check_keys(cfg)


def test_options_of_the_old_launcher_scripts():
    result, notices = translate_v2(
        {"optimizer.lr": 0.00125, "data.samples_per_gpu": 16, "data_root": "/data/coco", "total_epochs": 1}
    )
    assert result == {
        "optim_wrapper.optimizer.lr": 0.00125,
        "train_dataloader.batch_size": 16,
        "data_root": "/data/coco",
        "train_cfg.max_epochs": 1,
    }
    assert notices == [
        "option optimizer.lr -> optim_wrapper.optimizer.lr",
        "option data.samples_per_gpu -> train_dataloader.batch_size",
        "option data_root -> taken as --data-path",
        "option total_epochs -> train_cfg.max_epochs",
    ]


def test_keys_of_mmdet_3_pass_unchanged():
    options = {
        "optim_wrapper.optimizer.lr": 1,
        "train_cfg.max_epochs": 2,
        "model.backbone.depth": 18,
        "work_dir": "x",
    }
    assert translate_v2(options) == (options, [])


def test_relative_path_keeps_its_meaning():
    result, notices = translate_v2({"data.train.ann_file": "data/a.json", "data.val.img_prefix": ""})
    absolute = os.path.abspath("data/a.json")
    assert result["train_dataloader.dataset.ann_file"] == absolute
    assert result["val_dataloader.dataset.data_prefix.img"] == ""
    assert notices[0].endswith(f"-> train_dataloader.dataset.ann_file={absolute}")


def test_no_workers_means_no_persistent_workers():
    result, (notice,) = translate_v2({"data.workers_per_gpu": 0})
    assert "train_dataloader.persistent_workers=False" in notice
    assert result["train_dataloader.persistent_workers"] is False
    assert result["val_dataloader.num_workers"] == 0


def test_warm_up_ratio_follows_the_kind_of_warm_up():
    result, _ = translate_v2({"lr_config.warmup_ratio": 0.3, "lr_config.warmup": "constant"})
    assert result == {"param_scheduler.0.factor": 0.3, "param_scheduler.0.type": "ConstantLR"}
    cfg = Config(dict(param_scheduler=[dict(type="MultiStepLR"), dict(type="ConstantLR")]))
    result, _ = translate_v2({"lr_config.warmup_ratio": 0.3, "lr_config.step": [3]}, cfg)
    assert result == {"param_scheduler.1.factor": 0.3, "param_scheduler.0.milestones": [3]}


def test_absent_loader_of_the_config_is_respected():
    cfg = Config(dict(train_dataloader=dict(batch_size=1), val_dataloader=None))
    assert translate_v2({"data.workers_per_gpu": 1}, cfg)[0] == {"train_dataloader.num_workers": 1}


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("workflow", [("train", 1)], "has no counterpart"),
        ("gpu_ids", [0], "--npu-ids"),
        ("log_config.hooks", [], "vis_backends"),
        ("lr_config.policy", "CosineAnnealing", "only the policy 'step'"),
        ("lr_config.warmup", "exp", "choose linear or constant"),
        ("lr_config.min_lr", 0, "param_scheduler"),
        ("fp16.growth_interval", 1, "--opt-level"),
    ],
)
def test_key_without_counterpart_is_an_error(key, value, words):
    with pytest.raises(UserError, match=words):
        translate_v2({key: value})


def test_contradiction_is_an_error():
    with pytest.raises(UserError, match="contradicts another one: train_cfg.max_epochs=2"):
        translate_v2({"train_cfg.max_epochs": 2, "total_epochs": 3})
    assert translate_v2({"train_cfg.max_epochs": 2, "total_epochs": 2})[0] == {"train_cfg.max_epochs": 2}


V2_FILE = dict(
    model=dict(type="FCOS"),
    data=dict(samples_per_gpu=2, train=dict(type="CocoDataset")),
    optimizer=dict(type="SGD", lr=0.01),
    runner=dict(type="EpochBasedRunner", max_epochs=12),
)


@pytest.mark.parametrize("check", [reject_v2_file, check_keys, lambda cfg: check_options(cfg, {})])
def test_whole_file_of_mmdet_2_is_refused(check):
    with pytest.raises(UserError, match="written for mmdet 2.x"):
        check(Config(V2_FILE))


def test_file_of_mmdet_3_is_not_refused():
    reject_v2_file(Config.fromfile(str(FCOS)))
    reject_v2_file(Config(dict(V2_FILE, train_dataloader=dict(batch_size=1))))
