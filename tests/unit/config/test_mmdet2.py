"""Configurations of mmdet 2.x: each section's translation, written out."""

import pytest
from mmengine.config import Config

from fcos_train.config.keys.check import check_keys
from fcos_train.config.load import find_config, read_config
from fcos_train.config.mmdet2 import is_v2, modern
from fcos_train.config.mmdet2.model import modern_model
from fcos_train.config.mmdet2.pipeline import Pixels, modern_pipeline, pixels_of
from mmcv_overrides.checkpoint.embedded_config import parse
from mmcv_overrides.errors import UserError
from tests.support.mmdet2_files import TEXTS, twin

NORMALIZE = dict(type="Normalize", mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], to_rgb=True)
BUNDLE, COLLECT = dict(type="DefaultFormatBundle"), dict(type="Collect", keys=["img"])
KEYS = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")


@pytest.fixture(scope="module")
def translated():
    return {name: modern(parse(text, name), name)[0] for name, text in TEXTS.items()}


@pytest.mark.parametrize("name", TEXTS)
def test_the_model_equals_that_of_mmdet_3(translated, name):
    """Every setting that the text and mmdet 3.x's own configuration both have."""

    def differences(old, new, path):
        if isinstance(old, dict) and isinstance(new, dict):
            return [d for key in old.keys() & new.keys() for d in differences(old[key], new[key], f"{path}.{key}")]
        if isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)) and len(old) == len(new):
            return [d for n, pair in enumerate(zip(old, new, strict=True)) for d in differences(*pair, f"{path}[{n}]")]
        return [] if old == new else [(path, old, new)]

    old, new = translated[name].model, twin(name).model
    found = differences(old.to_dict(), new.to_dict(), "")
    # The sampling ratio of 0, and the settings of the training that these small twins leave to mmdet.
    known = (".backbone.init_cfg", ".backbone.norm_cfg", ".bbox_head.loss", ".data_preprocessor.pad_mask")
    assert [d for d in found if not d[0].startswith(known)] == []
    assert old.keys() >= {"type", "data_preprocessor", "backbone", "neck", "test_cfg", "train_cfg"}


@pytest.mark.parametrize("name", TEXTS)
def test_every_key_is_one_of_mmdet_3(translated, name):
    check_keys(translated[name])


def test_schedule_data_and_metric(translated):
    cfg = translated["fcos"]
    assert cfg.optim_wrapper.to_dict() == {
        "type": "OptimWrapper",
        "optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0001},
        "paramwise_cfg": {"bias_lr_mult": 2.0, "bias_decay_mult": 0.0},
        "clip_grad": {"max_norm": 35, "norm_type": 2},
    }
    assert [dict(one) for one in cfg.param_scheduler] == [
        {"type": "ConstantLR", "factor": pytest.approx(1 / 3), "by_epoch": False, "begin": 0, "end": 500},
        {"type": "MultiStepLR", "milestones": [8, 11], "gamma": 0.1, "by_epoch": True, "begin": 0, "end": 12},
    ]
    assert cfg.train_cfg == {"type": "EpochBasedTrainLoop", "max_epochs": 12, "val_interval": 1}
    train = cfg.train_dataloader
    assert (train.batch_size, train.num_workers, train.persistent_workers) == (2, 0, False)
    assert train.dataset.ann_file == "data/coco/annotations/instances_train2017.json"
    assert train.dataset.data_prefix == {"img": "data/coco/train2017/"}
    assert train.dataset.filter_cfg == {"filter_empty_gt": True, "min_size": 32}
    assert [step.type for step in train.dataset.pipeline] == [
        "LoadImageFromFile", "LoadAnnotations", "Resize", "RandomFlip", "PackDetInputs"
    ]  # fmt: skip
    test = cfg.test_dataloader.dataset
    assert test.test_mode and [dict(step) for step in test.pipeline] == [
        {"type": "LoadImageFromFile"},
        {"type": "Resize", "scale": (160, 128), "keep_ratio": True},
        {"type": "PackDetInputs", "meta_keys": KEYS},
    ]
    metric = {"type": "FastCocoMetric", "ann_file": "data/coco/annotations/instances_val2017.json"}
    assert cfg.val_evaluator == cfg.test_evaluator == metric


STEPS = {
    "one of several scales": (
        dict(type="Resize", img_scale=[(1333, 640), (1333, 800)], multiscale_mode="value", keep_ratio=True),
        dict(type="RandomChoiceResize", scales=[(1333, 640), (1333, 800)], keep_ratio=True),
    ),
    "a scale between two": (
        dict(type="Resize", img_scale=[(1333, 640), (1333, 800)], keep_ratio=True),
        dict(type="RandomResize", scale=[(1333, 640), (1333, 800)], keep_ratio=True),
    ),
    "a ratio": (
        dict(type="Resize", img_scale=(640, 480), ratio_range=(0.5, 2.0), keep_ratio=False, override=True),
        dict(type="RandomResize", scale=(640, 480), ratio_range=(0.5, 2.0), keep_ratio=False),
    ),
    "the ratio of sides is kept unless told otherwise": (
        dict(type="Resize", img_scale=(640, 480), bbox_clip_border=False),
        dict(type="Resize", scale=(640, 480), keep_ratio=True, clip_object_border=False),
    ),
    "flips": (
        dict(type="RandomFlip", flip_ratio=[0.2, 0.3], direction=["horizontal", "vertical"]),
        dict(type="RandomFlip", prob=[0.2, 0.3], direction=["horizontal", "vertical"]),
    ),
    "rows and columns of a crop": (
        dict(type="RandomCrop", crop_size=(384, 600), crop_type="absolute"),
        dict(type="RandomCrop", crop_size=(600, 384), crop_type="absolute"),
    ),
    "the bounds of a crop": (
        dict(type="RandomCrop", crop_size=(384, 600), crop_type="absolute_range"),
        dict(type="RandomCrop", crop_size=(384, 600), crop_type="absolute_range"),
    ),
    "rows and columns of Mosaic": (
        dict(type="Mosaic", img_scale=(480, 640), pad_val=114.0, min_bbox_size=2),
        dict(type="Mosaic", img_scale=(640, 480), pad_val=114.0),
    ),
    "rows and columns of Pad": (dict(type="Pad", size=(480, 640)), dict(type="Pad", size=(640, 480))),
    "a square": (dict(type="Pad", pad_to_square=True), dict(type="Pad", pad_to_square=True)),
    "a storage": (
        dict(type="LoadImageFromFile", file_client_args=dict(backend="petrel")),
        dict(type="LoadImageFromFile", backend_args=dict(backend="petrel")),
    ),
    "the disk": (
        dict(type="LoadImageFromFile", file_client_args=dict(backend="disk")),
        dict(type="LoadImageFromFile"),
    ),
    "unchanged": (dict(type="PhotoMetricDistortion"), dict(type="PhotoMetricDistortion")),
}


@pytest.mark.parametrize("case", STEPS)
def test_steps(case):
    old, new = STEPS[case]
    lines = []
    assert modern_pipeline([old], lines.append, "x") == [new]
    assert bool(lines) is (case == "rows and columns of Mosaic")


def test_what_the_preprocessor_does_leaves_the_pipeline():
    steps = [dict(type="LoadImageFromFile"), NORMALIZE, dict(type="Pad", size_divisor=16), BUNDLE, COLLECT]
    assert [step["type"] for step in modern_pipeline(steps, print, "x")] == ["LoadImageFromFile", "PackDetInputs"]
    assert pixels_of([steps], None).preprocessor() == {
        "type": "DetDataPreprocessor",
        "pad_size_divisor": 16,
        "mean": [1.0, 2.0, 3.0],
        "std": [4.0, 5.0, 6.0],
        "bgr_to_rgb": True,
    }
    yolox = [dict(type="Pad", size_divisor=32, pad_val=dict(img=(114.0, 114.0, 114.0)))]
    assert pixels_of([yolox], None).preprocessor() == {
        "type": "DetDataPreprocessor", "pad_size_divisor": 32, "pad_value": 114.0
    }  # fmt: skip
    only_top = pixels_of([], dict(mean=[1, 2, 3], std=[1, 1, 1], to_rgb=False))
    assert (only_top.to_rgb, only_top.divisor, only_top.source) == (False, 32, "img_norm_cfg")


def test_collect_keeps_its_keys():
    step = dict(type="Collect", keys=["img"], meta_keys=("filename", "ori_filename", "img_shape", "scale_factor"))
    assert modern_pipeline([step], print, "x") == [
        {"type": "PackDetInputs", "meta_keys": ("img_id", "img_path", "img_shape", "scale_factor")}
    ]


def test_test_time_augmentation_is_said_to_be_left_out():
    lines = []
    step = dict(type="MultiScaleFlipAug", img_scale=[(640, 480), (800, 600)], flip=True)
    step["transforms"] = [dict(type="Resize", keep_ratio=True), dict(type="RandomFlip"), COLLECT]
    found = modern_pipeline([step], lines.append, "x")
    assert found[0] == {"type": "Resize", "scale": (640, 480), "keep_ratio": True}
    assert lines == ["MultiScaleFlipAug: test-time augmentation -> one scale without flip (mmdet 3.x: tta_model)"]


NECKS = [
    (dict(add_extra_convs=True, extra_convs_on_inputs=False), "on_output"),
    (dict(add_extra_convs=True, extra_convs_on_inputs=True), "on_input"),
    (dict(add_extra_convs="on_lateral", extra_convs_on_inputs=False), "on_lateral"),
    (dict(add_extra_convs=False, extra_convs_on_inputs=False), False),
]


@pytest.mark.parametrize(("neck", "expected"), NECKS)
def test_extra_convolutions(neck, expected):
    model = modern_model(dict(neck=dict(type="FPN", **neck)), None, None, Pixels(), print)
    assert model["neck"] == {"type": "FPN", "add_extra_convs": expected}


def test_other_names_of_the_model():
    old = dict(
        pretrained="torchvision://resnet50",
        backbone=dict(type="ResNet", dcn=dict(modulated=True, deformable_groups=2)),
        bbox_head=dict(background_label=80),
        train_cfg=dict(rpn=dict(assigner=dict(pos_iou_thr=0.7)), rcnn=None),
        input_size=(640, 640),
        random_size_range=(10, 20),
    )
    lines = []
    model = modern_model(old, None, dict(rcnn=dict(nms=dict(type="soft_nms", iou_thr=0.4))), Pixels(), lines.append)
    assert model["backbone"] == {
        "type": "ResNet",
        "dcn": {"type": "DCNv2", "deform_groups": 2},
        "init_cfg": {"type": "Pretrained", "checkpoint": "torchvision://resnet50"},
    }
    assert model["bbox_head"] == {} and model["test_cfg"]["rcnn"]["nms"] == {"type": "soft_nms", "iou_threshold": 0.4}
    assert model["train_cfg"]["rpn"]["assigner"] == {"pos_iou_thr": 0.7}
    assert model["data_preprocessor"]["batch_augments"][0]["random_size_range"] == (320, 640)
    assert "input_size" not in model and len(lines) == 8


def full(**changes):
    return Config({**parse(TEXTS["retinanet"], "x").to_dict(), **changes})


def test_schedules():
    cosine = dict(policy="CosineAnnealing", warmup="linear", warmup_iters=100, warmup_ratio=0.1, min_lr_ratio=0.01)
    found = modern(full(lr_config=cosine, runner=dict(type="EpochBasedRunner", max_epochs=36)), "x")[0]
    assert [dict(one) for one in found.param_scheduler] == [
        {"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": 100},
        {"type": "CosineAnnealingLR", "T_max": 36, "eta_min_ratio": 0.01, "by_epoch": True, "begin": 0, "end": 36},
    ]
    iterations = dict(runner=dict(type="IterBasedRunner", max_iters=900), lr_config=dict(policy="step", step=[600]))
    found = modern(full(**iterations), "x")[0]
    assert found.train_cfg == {"type": "IterBasedTrainLoop", "max_iters": 900, "val_interval": 1}
    assert found.param_scheduler[0].by_epoch is False and found.log_processor.by_epoch is False


def test_mixed_precision_and_optimizer():
    found, lines = modern(
        full(fp16=dict(loss_scale=32.0), optimizer=dict(type="NpuFusedSGD", lr=0.1, momentum=0.9)), "x"
    )
    wrapper = found.optim_wrapper
    assert (wrapper.type, wrapper.loss_scale, wrapper.optimizer.type) == ("AmpOptimWrapper", 32.0, "SGD")
    assert any("fp16 -> " in line for line in lines) and any("NpuFusedSGD -> SGD" in line for line in lines)


def test_data_sets():
    leaf = dict(type="CocoDataset", ann_file=["a.json", "b.json"], img_prefix=["a/", "b/"], data_root="root/")
    leaf |= dict(classes=("x", "y"), filter_empty_gt=False, pipeline=[dict(type="LoadImageFromFile"), COLLECT])
    data = dict(samples_per_gpu=4, workers_per_gpu=3, train=dict(type="RepeatDataset", times=3, dataset=leaf))
    found = modern(full(data=data), "x")[0]
    outer = found.train_dataloader.dataset
    assert (outer.type, outer.times, outer.dataset.type) == ("RepeatDataset", 3, "ConcatDataset")
    second = outer.dataset.datasets[1]
    assert (second.data_root, second.ann_file, second.data_prefix) == ("root/", "b.json", {"img": "b/"})
    assert second.metainfo == {"classes": ("x", "y")} and second.filter_cfg.filter_empty_gt is False
    assert found.val_dataloader is None and found.test_evaluator is None
    voc = dict(type="VOCDataset", ann_file="VOC2007/ImageSets/Main/test.txt", img_prefix="VOC2007/", pipeline=[COLLECT])
    found = modern(full(data=dict(test=voc), evaluation=dict(metric="mAP")), "x")[0]
    assert found.test_dataloader.dataset.data_prefix == {"sub_data_root": "VOC2007/"}
    assert found.test_evaluator == {"type": "VOCMetric", "metric": "mAP", "eval_mode": "11points"}


REFUSED = {
    "lr_config.policy=cyclic": dict(lr_config=dict(policy="cyclic")),
    "lr_config.warmup=exp": dict(lr_config=dict(policy="step", step=[8], warmup="exp")),
    "the step LoadProposals": dict(data=dict(test=dict(type="CocoDataset", pipeline=[dict(type="LoadProposals")]))),
    "data.val of this mmdet 2.x configuration is no data set": dict(data=dict(test=["a"])),
    "cannot be translated to 3.x": dict(data=dict(test=dict(type="CocoDataset", pipeline=[3]))),
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_has_no_counterpart_is_refused(says):
    with pytest.raises(UserError, match=f"^a.pth: .*{says}"):
        modern(full(**REFUSED[says]), "a.pth")


def test_unknown_keys_are_named():
    assert (
        "  my_key, other -> nothing: no key of mmdet 2.x that is known here" in modern(full(my_key=1, other=2), "x")[1]
    )


@pytest.mark.parametrize("name", ["fcos/fcos_tiny_shapes", "mmdet::retinanet/retinanet_r50_fpn_1x_coco"])
def test_configs_of_3_are_not_of_2(name):
    assert not is_v2(read_config(name)[0]) and read_config(name)[1] == []


@pytest.mark.parametrize("safe", [False, True])
def test_a_file(safe, tmp_path):
    path = tmp_path / "old.py"
    path.write_text(TEXTS["fsaf"].replace("gpu_ids = range(0, 8)\n", ""))
    config, notes = read_config(str(path), safe)
    assert config.model.type == "FSAF" and config.test_dataloader and notes[0].startswith(f"config {path}: ")


def test_a_file_with_an_unregistered_part_is_refused_as_data(tmp_path):
    (tmp_path / "old.py").write_text(TEXTS["fsaf"].replace("'FSAFHead'", "'os.system'"))
    with pytest.raises(UserError, match=r"model.bbox_head.type='os.system'"):
        read_config(str(tmp_path / "old.py"), safe=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("configs/dcn/cascade_rcnn_r101_fpn_dconv_c3-c5_1x_coco.py", "cascade_rcnn_r101_fpn_dconv_c3-c5_1x_coco.py"),
        ("faster_rcnn_r50_fpn_1x_coco", "faster-rcnn_r50_fpn_1x_coco.py"),
        ("mmdet::fcos/fcos_center-normbbox-centeronreg-giou_r50_caffe_fpn_gn-head_1x_coco",
         "fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py"),
    ],
)  # fmt: skip
def test_names_of_2(old, new):
    assert find_config(old).name == new
    assert any(new in note for note in read_config(old)[1]) is (find_config(old).stem not in old)
