"""--safe-config: shipped configurations read the same as a program gives them; what is more than data is refused."""

import json
import os

import pytest
import yaml
from mmengine.config import Config

from fcos_train.config.load import config_folders, find_config, load_config
from fcos_train.config.options import EvalOptions, TrainOptions
from mmcv_overrides.errors import UserError

OURS = sorted(str(p.relative_to(config_folders()[""])) for p in config_folders()[""].rglob("*.py"))
MMDET = [
    "faster_rcnn/faster-rcnn_r50_fpn_1x_coco",
    "fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco",
    "cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco",
    "pvt/retinanet_pvtv2-b5_fpn_1x_coco",  # arithmetic
    "detr/detr_r50_8xb2-150e_coco",
    "ssd/ssd300_coco",  # values of _base_
]


@pytest.mark.parametrize("name", [*OURS, *(f"mmdet::{name}" for name in MMDET)])
def test_shipped_configs_read_the_same(name):
    assert load_config(name, safe=True).to_dict() == Config.fromfile(str(find_config(name))).to_dict()


def test_formats_and_bases(tmp_path):
    (tmp_path / "a.py").write_text(
        "_base_ = ['sub/b.yaml', 'c.json', 'mmdet::_base_/schedules/schedule_1x.py']\nx = dict(y=_base_.x.z + 1)\n"
    )
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.yaml").write_text("x: {z: 2}\n")
    (tmp_path / "c.json").write_text('{"m": {"_delete_": true, "k": [1, null]}}')
    safe, program = load_config(str(tmp_path / "a.py"), safe=True), Config.fromfile(str(tmp_path / "a.py"))
    assert safe.to_dict() == program.to_dict()
    assert safe.x.to_dict() == {"z": 2, "y": 3} and safe.train_cfg.max_epochs == 12


PROGRAMS = {
    "import os": "line 2 of the configuration is more than a value: `import os`",
    "a = open('{mark}', 'w')": "line 2 of the configuration is more than a value",
    "from mmengine.config import read_base\nwith read_base():\n    from .b import *": (
        "line 2 .*from mmengine.config import read_base"
    ),
    "a = _base_.__class__": "more than a value",
    "a = dict(b=1).keys()": "more than a value",
    "a = ().__class__": "more than a value",
    "a = 'x' * 1000": "more than a value",
    "a = 2 ** 9": "more than a value",
    "a = 9999999999 * 9999999999": "more than a value",
    "a = 1 / 0": "more than a value",
    "a = 'x' + 1": "more than a value",
    "a = [1][1]": "more than a value",
    "a = [i for i in (1, 2)]": "more than a value",
    "a = '{{{{ $HOME:x }}}}'": "line 2 of the configuration has a template",
    "a = '{{{{ fileBasename }}}}'": "has a template",
    "a = '{{{{_base_.b}}}}'": "has a template",
    "_base_ = 'no.py'": r"no\.py: no such file",
    "_base_ = 'http://127.0.0.1:9/a.py'": "neither a file nor mmdet::",
    "_base_ = 'mmpretrain::a.py'": "neither a file nor mmdet::",
    "_base_ = 'mmdet::no/such'": "no config 'mmdet::no/such'",
    "_base_ = 'a.py'": "levels of _base_",
    "_base_ = 3": "_base_ must be a file name",
    "_base_ = '/dev/zero'": "no such file",
    "custom_imports = dict(imports=['antigravity'])": "imports 'antigravity', which is refused",
    "custom_imports = ['antigravity']": "imports 'antigravity', which is refused",
    "filename = 'x'": "cannot be read",
}


@pytest.mark.parametrize("text", PROGRAMS)
def test_programs_are_refused(tmp_path, text):
    mark = tmp_path / "executed"
    (tmp_path / "a.py").write_text("# a config\n" + text.format(mark=mark) + "\n")
    with pytest.raises(UserError, match=PROGRAMS[text]) as caught:
        load_config(str(tmp_path / "a.py"), safe=True)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    assert not mark.exists()


PARTS = {
    "model: {type: os.system, command: 'touch x'}": "model.type='os.system'",
    "model: {type: FCOS, test_cfg: {nms: {type: \"open('x')\"}}}": "model.test_cfg.nms.type",
    "model: {type: FCOS, tracker: {warp_mode: \"open('x')\"}}": "model.tracker.warp_mode",
    "model: {type: FCOS, teacher_config: x.py}": "model.teacher_config='x.py'",
    "model: {type: FCOS, backbone: {init_cfg: {type: os.system}}}": "init_cfg.type='os.system'",
    "custom_hooks: [{type: subprocess.Popen, args: [touch, x]}]": r"custom_hooks\[0\].type='subprocess.Popen'",
    "optim_wrapper: {constructor: os.system}": "optim_wrapper.constructor='os.system'",
    "optim_wrapper: {optimizer: {type: builtins.exec}}": "optim_wrapper.optimizer.type='builtins.exec'",
    "train_dataloader: {collate_fn: {type: os.system}}": "collate_fn.type='os.system'",
    "train_dataloader: {dataset: {type: OpenImagesDataset, hierarchy_file: x.npy}}": "hierarchy_file='x.npy'",
    "custom_hooks: [{type: RFSearchHook, config: {search: {search_op: \"open('x')\"}}}]": "search_op=",
    "default_scope: evil": "default_scope='evil'",
    "vis_backends: [{type: mmengine.Config.fromfile, filename: x.py}]": "vis_backends",
    "val_evaluator: {type: [CocoMetric, os.system]}": r"val_evaluator.type\[1\]='os.system'",
    "runner_type: x\ntrain_cfg: {type: Runner}": "train_cfg.type='Runner'",
}


@pytest.mark.parametrize("suffix", [".yaml", ".json", ".py"])
@pytest.mark.parametrize("text", PARTS)
def test_data_that_name_no_registered_part_are_refused(tmp_path, suffix, text):
    data = yaml.safe_load(text)
    path = tmp_path / f"a{suffix}"
    lines = "\n".join(f"{key} = {value!r}" for key, value in data.items())
    path.write_text({".yaml": text, ".py": lines, ".json": json.dumps(data)}[suffix])
    with pytest.raises(UserError, match=PARTS[text]) as caught:
        load_config(str(path), safe=True)
    assert f"config {path}: the configuration asks for" in str(caught.value) and "--safe-config" in str(caught.value)


def test_files_without_end_or_of_another_kind(tmp_path):
    os.mkfifo(tmp_path / "pipe.py")
    for name, text in (("a.txt", "a = 1"), ("b.json", "[" * 100_000), ("c.json", "[1]"), ("d.yaml", "1: 2")):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=f"config .*{name}"):
            load_config(str(tmp_path / name), safe=True)
    (tmp_path / "e.py").write_text("_base_ = 'pipe.py'")
    with pytest.raises(UserError, match=r"pipe\.py: no such file"):
        load_config(str(tmp_path / "e.py"), safe=True)
    for n in range(8):
        (tmp_path / f"f{n}.py").write_text(f"_base_ = ['f{n + 1}.py', 'f{n + 1}.py']")
    (tmp_path / "f8.py").write_text("")
    with pytest.raises(UserError, match="over 50 files"):
        load_config(str(tmp_path / "f0.py"), safe=True)


def test_the_flag_is_an_option_of_training_and_evaluation(tmp_path):
    assert TrainOptions(config="x").safe_config is False
    (tmp_path / "a.pth").touch()
    for name in ("a.pkl", "a.pickle", "a.yaml"):
        with pytest.raises(UserError, match=f"--out {name}: the numbers are written as JSON"):
            EvalOptions(config=None, checkpoint=str(tmp_path / "a.pth"), out=name)
    assert EvalOptions(config=None, checkpoint=str(tmp_path / "a.pth"), out="a.json").out == "a.json"
