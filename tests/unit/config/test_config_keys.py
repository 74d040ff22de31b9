"""Unknown config keys and --cfg-options are found, with the nearest legal name; right ones are let be."""

import copy
from pathlib import Path

import mmdet
import pytest
from mmengine.config import Config
from mmengine.registry import MODELS

from fcos_train.config.keys.bounds import require_values
from fcos_train.config.keys.check import check_keys, check_options, merge_options
from mmcv_overrides.errors import UserError

SHIPPED = Path(mmdet.__file__).parent / ".mim" / "configs"
OURS = Path(__file__).resolve().parents[3] / "configs"
FCOS = "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py"

# Shipped with faults that the check is right about: they fail to build, or 3.x ignores part of them.
BROKEN = {
    "cascade_rpn/cascade-rpn_r50-caffe_fpn_1x_coco.py": "model.rpn_head.stages.0.sampling",
    "guided_anchoring/ga-fast-rcnn_r50-caffe_fpn_1x_coco.py": "optimizer_config",
    "pascal_voc/faster-rcnn_r50_fpn_1x_voc0712-cocofmt.py": "val_evaluator.eval_mode",
    "v3det/fcos_swinb_fpn_8x4_sample1e-3_mstrain_v3det_2x.py": "model.neck.force_grad_on_level",
    "bytetrack/bytetrack_yolox_x_8xb4-80e_crowdhuman-mot20train_test-mot20test.py": "MOTChallengeMetrics",
}
FAMILIES = [
    "fcos", "fsaf", "retinanet", "faster_rcnn", "cascade_rcnn", "dcn", "dcnv2", "atss", "gfl", "yolox",
    "detr", "deformable_detr", "rtmdet", "vfnet", "mask_rcnn", "albu_example", "htc", "ssd", "yolo",
    "centernet", "mask2former", "soft_teacher", "queryinst", "reppoints", "gn+ws", "res2net", "carafe",
    "libra_rcnn",
]  # fmt: skip


def load(name: str) -> Config:
    return Config.fromfile(str(SHIPPED / name))


@pytest.fixture(scope="module")
def fcos() -> Config:
    return load(FCOS)


def message_of(check, *arguments) -> str:
    with pytest.raises(UserError) as error:
        check(*arguments)
    return str(error.value)


def changed(cfg: Config, key: str, value) -> Config:
    cfg = copy.deepcopy(cfg)
    cfg.merge_from_dict({key: value})
    return cfg


# -- no false positives ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_shipped_configs_pass(family):
    """The first and the last config of each family."""
    files = sorted(str(p.relative_to(SHIPPED)) for p in (SHIPPED / family).glob("*.py"))
    assert files
    for name in {files[0], files[-1]} - BROKEN.keys():
        check_keys(load(name))
        require_values(load(name))


@pytest.mark.parametrize("name", sorted(p.relative_to(OURS).as_posix() for p in OURS.glob("[!_]*/*.py")))
def test_our_configs_pass(name):
    check_keys(Config.fromfile(str(OURS / name)))
    require_values(Config.fromfile(str(OURS / name)))


@pytest.mark.parametrize("name, fault", BROKEN.items())
def test_broken_shipped_configs_are_found(name, fault):
    assert fault in message_of(check_keys, load(name))


def test_variables_of_the_config_file_are_legal(fcos):
    for name in ("img_scale", "num_classes", "my_own_thing", "train_pipeline_stage2", "lr", "datasets"):
        check_keys(changed(fcos, name, 3))


def test_variable_with_a_name_near_a_section_is_legal_when_a_section_uses_it(fcos):
    cfg = changed(fcos, "train_dataloaders", copy.deepcopy(fcos.train_dataloader.to_dict()))
    check_keys(cfg)
    cfg.train_dataloaders.batch_size = 7
    assert "did you mean 'train_dataloader'?" in message_of(check_keys, cfg)


def test_class_that_keeps_its_kwargs_is_let_be(fcos):
    check_keys(changed(fcos, "custom_hooks", [dict(type="EMAHook", whatever=1)]))


def test_other_scope_is_let_be(fcos):
    check_keys(changed(fcos, "model.backbone", dict(_delete_=True, type="mmpretrain.ConvNeXt", arch="tiny")))


# -- typos at every level ----------------------------------------------------------------------------------

TYPOS = [
    (
        "optim_wraper",
        dict(type="OptimWrapper"),
        "optim_wraper: nothing reads this; did you mean 'optim_wrapper'?",
    ),
    ("modle", dict(type="FCOS"), "modle: nothing reads this; did you mean 'model'?"),
    ("optim_wrapper.grad_clip", dict(max_norm=35), "takes no 'grad_clip'; did you mean 'clip_grad'?"),
    ("optim_wrapper.clip_grad", dict(max_nrm=35), "optim_wrapper.clip_grad.max_nrm: "),
    (
        "optim_wrapper.optimizer.weigth_decay",
        0.1,
        "SGD takes no 'weigth_decay'; did you mean 'weight_decay'?",
    ),
    ("optim_wrapper.optimizer.type", "SDG", "optim_wrapper.optimizer.type: 'SDG' is not registered"),
    ("optim_wrapper.paramwise_cfg.bias_lr_mul", 2, "did you mean 'bias_lr_mult'?"),
    ("train_cfg.max_epoch", 1, "did you mean 'max_epochs'?"),
    ("val_cfg.fp_16", True, "did you mean 'fp16'?"),
    ("train_dataloader.batchsize", 4, "did you mean 'batch_size'?"),
    ("train_dataloader.samples_per_gpu", 4, "did you mean 'batch_size'?"),
    ("train_dataloader.dataset.ann_fil", "x", "CocoDataset takes no 'ann_fil'; did you mean 'ann_file'?"),
    ("train_dataloader.dataset.img_prefix", "x", "did you mean 'data_prefix'?"),
    ("train_dataloader.dataset.type", "CocoDatset", "did you mean 'CocoDataset'?"),
    (
        "train_dataloader.dataset.pipeline.2.img_scale",
        (1, 1),
        "Resize takes no 'img_scale'; did you mean 'scale'?",
    ),
    ("train_dataloader.sampler.shufle", True, "did you mean 'shuffle'?"),
    ("default_hooks.checkpont", dict(type="CheckpointHook"), "did you mean 'checkpoint'?"),
    ("default_hooks.checkpoint.max_keep_ckpt", 3, "did you mean 'max_keep_ckpts'?"),
    ("default_hooks.logger.intervall", 3, "did you mean 'interval'?"),
    ("param_scheduler.1.milestone", [8], "param_scheduler.1.milestone: MultiStepLR takes no 'milestone'"),
    ("param_scheduler.1.step", [8], "did you mean 'milestones'?"),
    ("env_cfg.cudnn_benchmrk", True, "did you mean 'cudnn_benchmark'?"),
    ("env_cfg.mp_cfg.opencv_threads", 0, "did you mean 'opencv_num_threads'?"),
    ("randomness", dict(sed=0), "randomness.sed: "),
    ("auto_scale_lr.enabled", True, "did you mean 'enable'?"),
    ("visualizer.vis_backend", [], "did you mean 'vis_backends'?"),
    ("log_processor.windows_size", 5, "did you mean 'window_size'?"),
    ("val_evaluator.metrik", "bbox", "did you mean 'metric'?"),
    (
        "custom_hooks",
        [dict(type="NumClassCheckHok")],
        "custom_hooks.0.type: 'NumClassCheckHok' is not registered",
    ),
    ("model.type", "FCSO", "did you mean 'FCOS'?"),
    ("model.neck.type", "FPM", "did you mean 'FPN'?"),
    (
        "model.bakbone",
        dict(type="ResNet"),
        "model.bakbone: FCOS takes no 'bakbone'; did you mean 'backbone'?",
    ),
    ("model.bbox_head.num_clases", 3, "FCOSHead takes no 'num_clases'; did you mean 'num_classes'?"),
    ("model.bbox_head.stacked_conv", 3, "did you mean 'stacked_convs'?"),  # a parameter of a parent class
    ("model.bbox_head.loss_cls.gama", 3, "FocalLoss takes no 'gama'; did you mean 'gamma'?"),
    ("model.backbone.norm_cfg.require_grad", True, "did you mean 'requires_grad'?"),
    ("model.backbone.init_cfg.checkpont", "x", "did you mean 'checkpoint'?"),
    ("model.test_cfg.scor_thr", 0.1, "did you mean 'score_thr'?"),
]


@pytest.mark.parametrize("key, value, expected", TYPOS, ids=[t[0] for t in TYPOS])
def test_typo_is_found(fcos, key, value, expected):
    assert expected in message_of(check_keys, changed(fcos, key, value))


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("model = dict(bbox_head=dict(feat_chanels=64))", "feat_channels"),
        ("train_dataloader = dict(dataset=dict(fliter_cfg=dict()))", "filter_cfg"),
        ("model = dict(backbone=dict(type='ResNett'))", "ResNet"),
    ],
)
def test_typo_below_a_base_of_mmdet(text, right, tmp_path):
    """mmengine writes the scope into the parts of a base that is named by its package."""
    path = tmp_path / "mine.py"
    path.write_text(f"_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'\n{text}")
    cfg = Config.fromfile(str(path))
    assert "'_scope_': 'mmdet'" in str(cfg.to_dict())
    assert f"did you mean '{right}'?" in message_of(check_keys, cfg)


def test_all_faults_in_one_message(fcos):
    cfg = changed(fcos, "optim_wrapper.grad_clip", dict(max_norm=1))
    cfg.train_cfg.max_epoch = 2
    cfg.model.bbox_head.num_clases = 2
    lines = message_of(check_keys, cfg).splitlines()
    assert lines[0] == "3 unknown keys in the config:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "model.bbox_head.num_clases",
        "optim_wrapper.grad_clip",
        "train_cfg.max_epoch",
    ]


@pytest.mark.parametrize("key", ["optimizer_config", "lr_config", "evaluation", "checkpoint_config", "log_config"])
def test_section_of_mmdet_2_is_found(fcos, key):
    assert f"{key}: an mmdet 2.x key, which 3.x ignores; use " in message_of(
        check_keys, changed(fcos, key, dict(interval=1))
    )


def test_section_of_mmdet_2_used_as_a_variable_is_legal(fcos):
    check_keys(changed(fcos, "optimizer", fcos.optim_wrapper.optimizer.to_dict()))


def test_user_class_is_checked_along_its_parents(fcos):
    from mmdet.models.dense_heads import FCOSHead

    @MODELS.register_module(force=True)
    class _HeadForKeys(FCOSHead):
        def __init__(self, *args, extra=1, **kwargs):
            kwargs.pop("popped", None)
            super().__init__(*args, **kwargs)

    cfg = changed(fcos, "model.bbox_head.type", "_HeadForKeys")
    cfg.model.bbox_head.update(extra=2, popped=3, center_sampling=True)
    check_keys(cfg)
    cfg.model.bbox_head.center_sampeling = True
    assert "did you mean 'center_sampling'?" in message_of(check_keys, cfg)


# -- --cfg-options -----------------------------------------------------------------------------------------

LEGAL = [
    "optim_wrapper.optimizer.lr",
    "optim_wrapper.clip_grad.max_norm",  # the section is absent, its owner takes it
    "optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult",
    "randomness.seed",
    "work_dir",
    "load_from",
    "train_dataloader.dataset.metainfo.classes",
    "train_dataloader.dataset.pipeline.1.with_bbox",
    "default_hooks.checkpoint.max_keep_ckpts",
    "param_scheduler.1.milestones",
    "model.backbone.with_cp",
    "model.test_cfg.nms.iou_threshold",
    "model.test_cfg.something_of_my_own",
]


@pytest.mark.parametrize("key", LEGAL)
def test_legal_option(fcos, key):
    assert check_options(fcos, {key: 1}) == []


WRONG = [
    ("optim_wraper.optimizer.lr", "did you mean 'optim_wrapper.optimizer.lr'?"),
    ("train_dataloader.batchsize", "did you mean 'train_dataloader.batch_size'?"),
    ("train_dataloader.datset.ann_file", "did you mean 'train_dataloader.dataset.ann_file'?"),
    ("model.bbox_hed.num_classes", "did you mean 'model.bbox_head.num_classes'?"),
    ("model.backbone.depht", "did you mean 'model.backbone.depth'?"),
    ("model.test_cfg.scor_thr", "did you mean 'model.test_cfg.score_thr'?"),
    ("default_hooks.checkpont.interval", "did you mean 'default_hooks.checkpoint.interval'?"),
    ("optim_wrapper.grad_clip.max_norm", "did you mean 'optim_wrapper.clip_grad.max_norm'?"),
    ("max_epoch", "did you mean 'train_cfg.max_epochs'?"),
    ("train_dataloader.dataset.pipeline.9.scale", "is a list of 5; give an index 0..4"),
    ("param_scheduler.milestones", "is a list of 2; give an index 0..1"),
    ("optim_wrapper.optimizer.lr.x", "optim_wrapper.optimizer.lr is 0.01, which has no keys"),
    ("model.foo.bar", "model has no 'foo'; it has backbone, bbox_head, "),
    ("zzz", "there is no 'zzz'; see the config's own keys: "),
]


@pytest.mark.parametrize("key, expected", WRONG)
def test_wrong_option(fcos, key, expected):
    assert expected in message_of(check_options, fcos, {key: 1})


def test_all_wrong_options_in_one_message(fcos):
    text = message_of(check_options, fcos, {"zzz": 1, "model.backbone.depht": 18, "model.backbone.depth": 18})
    assert text.splitlines()[0] == "2 unknown keys in --cfg-options:"


def test_type_option_decides_what_else_is_legal(fcos):
    assert "no 'groups'" in message_of(check_options, fcos, {"model.backbone.groups": 32})
    assert check_options(fcos, {"model.backbone.groups": 32, "model.backbone.type": "ResNeXt"}) == []


def test_variable_option_gets_a_notice(fcos):
    (notice,) = check_options(fcos, {"dataset_type": "X"})
    assert notice.startswith("--cfg-options dataset_type: only a variable of the config file")


def test_merge_below_none(fcos):
    cfg = changed(fcos, "optim_wrapper.clip_grad", None)
    assert merge_options(cfg, {"optim_wrapper.clip_grad.max_norm": 35, "param_scheduler.1.milestones": [3]}) == []
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=35)
    assert cfg.param_scheduler[1].milestones == [3]


def test_check_leaves_the_config_unchanged(fcos):
    before = fcos.to_dict()
    check_keys(fcos)
    check_options(fcos, {"model.backbone.type": "ResNeXt", "optim_wrapper.clip_grad.max_norm": 3})
    assert fcos.to_dict() == before
