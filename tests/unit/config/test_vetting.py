"""Configurations of plain values that would still run code when built."""

import copy

import pytest
from mmengine.config import Config

from fcos_train.config.load import load_config
from fcos_train.config.vetting import check_parts, run_custom_imports, without_pretrained
from mmcv_overrides.errors import UserError


@pytest.fixture
def config():
    config = load_config("fcos/fcos_tiny_shapes")
    config.model.backbone.init_cfg = {"type": "Pretrained", "checkpoint": "torchvision://resnet18"}
    return config


def place(config, path, value):
    *parents, last = path.split(".")
    node = config
    for name in parents:
        node = node[name]
    node[last] = value


ATTACKS = {
    "registry imports and calls a function": ("neck", {"type": "os.system", "command": "touch {mark}"}),
    "function of an allowed package": (
        "neck",
        {"type": "mmengine.config.Config.fromstring", "cfg_str": "a", "file_format": ".py"},
    ),
    "class that is no part": ("neck", {"type": "subprocess.Popen", "args": ["touch", "{mark}"]}),
    "registered elsewhere": ("neck", {"type": "mmengine.Runner"}),
    "top-level module": ("neck", {"type": "antigravity"}),
    "eval in mmcv.ops.nms": ("test_cfg.nms.type", "__import__('os').system('touch {mark}') or nms"),
    "eval of a registered helper's option": (
        "bbox_head.assigner",
        {"type": "CameraMotionCompensation", "warp_mode": "open('{mark}', 'w')"},
    ),
    "foreign scope": ("neck._scope_", "evil"),
    "foreign package": ("neck.type", "evil.FPN"),
    "a second file, executed": ("teacher_config", "evil.py"),
    "a second file, unpickled": ("teacher_ckpt", "evil.pth"),
    "a second file from a url": ("name", "https://evil.example/x"),
    "no text": ("neck.out_channels", object()),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_refused(attack, config, tmp_path):
    path, value = ATTACKS[attack]
    mark = tmp_path / "executed"
    if isinstance(value, str):
        value = value.replace("{mark}", str(mark))
    model = without_pretrained(config.model)
    check_parts(model, "model", "x.pth")
    place(model, path, value)
    with pytest.raises(UserError, match=r"x\.pth: the configuration in it asks for model\..*trust_checkpoints"):
        check_parts(model, "model", "x.pth")
    assert not mark.exists()


def test_full_names_of_registered_classes_are_parts():
    check_parts({"type": "mmdet.models.detectors.fcos.FCOS"}, "model", "x")
    check_parts({"type": "mmdet.models.FCOS"}, "model", "x")
    check_parts({"type": "mmdet.FCOS", "_scope_": "mmdet"}, "model", "x")
    check_parts({"roi_layer": {"type": "RoIAlign"}, "nms": {"type": "soft_nms"}}, "model", "x")


WORDS = {
    "of a cascaded RPN": {"stages": [{"adapt_cfg": {"type": "dilation", "dilation": 3}}]},
    "of FPG": {"across_skip_trans": {"type": "identity"}, "same_up_trans": {"type": "conv"}},
}


@pytest.mark.parametrize("name", WORDS)
def test_words_that_no_registry_knows(name):
    """Own checkpoints of Cascade RPN and FPG: their classes read these words themselves."""
    check_parts(WORDS[name], "model.rpn_head", "x")


@pytest.mark.parametrize("part", [{"adapt_cfg": {"type": "antigravity"}}, {"neck": {"type": "dilation"}}])
def test_a_word_counts_only_where_its_class_reads_it(part):
    with pytest.raises(UserError, match="which is not a part"):
        check_parts(part, "model", "x")


@pytest.mark.parametrize(
    "name", ["cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco", "fpg/mask-rcnn_r50_fpg_crop640-50e_coco"]
)
def test_models_with_such_words(name):
    check_parts(without_pretrained(load_config(f"mmdet::{name}").model), "model", "x")


def test_pretrained_weights_are_not_asked_for(config):
    before = copy.deepcopy(config.model.to_dict() if hasattr(config.model, "to_dict") else dict(config.model))
    model = without_pretrained(config.model)
    assert "init_cfg" not in model.backbone and model.backbone.depth == 18
    assert "init_cfg" in before["backbone"] and "init_cfg" in config.model.backbone


def test_custom_imports(tmp_path, monkeypatch):
    mark = tmp_path / "executed"
    (tmp_path / "evil_module.py").write_text(f"open({str(mark)!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = Config({"custom_imports": {"imports": ["mmdet.models", "evil_module"]}})
    with pytest.raises(UserError, match="'evil_module', which is refused"):
        run_custom_imports(config, "x.pth")
    assert not mark.exists()
    run_custom_imports(config, "x.pth", trust=True)
    assert mark.exists()
    missing = {"imports": "mmdet.no_such_module"}
    with pytest.raises(UserError, match="needs the module 'mmdet.no_such_module'"):
        run_custom_imports(Config({"custom_imports": missing}), "x")
    run_custom_imports(Config({"custom_imports": {**missing, "allow_failed_imports": True}}), "x")
