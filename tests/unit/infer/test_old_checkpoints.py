"""Checkpoints of mmdet 2.x, with their configuration as text: the boxes are those of the same weights in mmdet 3.x."""

import json

import cv2
import numpy as np
import pytest
import torch

from fcos_train.config.options import EvalOptions
from fcos_train.engine.run import evaluate
from fcos_train.infer.demo import demo
from fcos_train.infer.detector import Detector
from fcos_train.infer.options import DemoOptions
from mmcv_overrides.errors import UserError
from tests.support.mmdet2_files import TEXTS, write_pair

SHAPE = (96, 128)
SAID = {
    "fcos": ("train_cfg -> model.train_cfg", "neck.extra_convs_on_inputs=False -> add_extra_convs='on_output'"),
    "fsaf": ("model.pretrained -> model.backbone.init_cfg", "(RGB, mean 123.675 116.28 103.53, std 58.395"),
    "retinanet": ("Normalize of the pipelines -> model.data_preprocessor", "Collect -> PackDetInputs"),
    "cascade": ("backbone.dcn.deformable_groups -> deform_groups", "test_cfg.rpn.nms_thr -> nms.iou_threshold"),
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """name -> file of 2.x and of 3.x."""
    return {name: write_pair(tmp_path_factory.mktemp("old"), name) for name in TEXTS}


@pytest.fixture(scope="module")
def detectors(pairs):
    return {name: tuple(map(Detector.from_checkpoint, files)) for name, files in pairs.items()}


def same(one, other):
    assert np.array_equal(one.boxes, other.boxes) and np.array_equal(one.scores, other.scores)
    assert np.array_equal(one.labels, other.labels)


@pytest.mark.parametrize("name", TEXTS)
def test_the_boxes_are_those_of_mmdet_3(detectors, name):
    old, new = detectors[name]
    image = np.random.default_rng(0).integers(0, 255, (100, 150, 3)).astype(np.uint8)
    found = old(image)
    assert len(found) > 10 and found.scores[0] > 0.3 and old.classes == ("circle", "square", "triangle")
    same(found, new(image))
    said = "\n".join(old.notices)
    assert old.notices[0].endswith("_2x.pth.tar: a configuration of mmdet 2.x, translated to 3.x:") and not new.notices
    for words in SAID[name]:
        assert words in said


def test_demo_says_what_was_translated(pairs, tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((60, 80, 3), 90, np.uint8))
    lines = []
    options = DemoOptions(str(pairs["fcos"][0]), img=str(tmp_path / "a.png"), show_dir=str(tmp_path), device="cpu")
    demo(options, lines.append)
    assert (tmp_path / "a_pred.png").is_file() or (tmp_path / "a_pred.jpg").is_file()
    assert any("translated to 3.x" in line for line in lines)
    assert any("extra_convs_on_inputs=False" in line for line in lines)


@pytest.mark.parametrize("name", ["fcos", "cascade"])
def test_evaluation_without_a_config_file(pairs, shapes, name, tmp_path):
    numbers = []
    for file in pairs[name]:
        options = EvalOptions(
            None, str(file), data_path=str(shapes), work_dir=str(tmp_path / file.stem), device="cpu", workers=0
        )
        numbers.append(evaluate(options))
    assert numbers[0] == numbers[1] and "bbox_mAP" in numbers[0]


@pytest.mark.parametrize("name", TEXTS)
def test_export(detectors, name, tmp_path):
    pytest.importorskip("onnxruntime")
    from fcos_train.deploy.onnx.export import ExportOptions, export_detector

    models = []
    for place, detector in enumerate(detectors[name]):
        path = tmp_path / f"{place}.onnx"
        export_detector(detector, ExportOptions("x.pth", end="nms", shape=SHAPE), path, lambda line: None)
        models.append(path)
    import onnxruntime

    image = np.random.default_rng(1).normal(size=(1, 3, *SHAPE)).astype(np.float32)
    runs = [onnxruntime.InferenceSession(str(path)).run(None, {"input": image}) for path in models]
    assert all(np.array_equal(*both) for both in zip(*runs, strict=True))
    described = [json.loads(path.with_suffix(".json").read_text()) for path in models]
    assert described[0] == described[1]


def test_a_bare_file_needs_a_config_and_names_it(pairs, tmp_path):
    state = torch.load(pairs["fcos"][1], weights_only=True)["state_dict"]
    torch.save(state, tmp_path / "bare.pth")
    with pytest.raises(UserError, match=r"no configuration.*--config FILE.*like --config fcos/fcos_r18_fpn_shapes"):
        Detector.from_checkpoint(tmp_path / "bare.pth")


CODE = "work_dir = __import__('os').system('touch ran')\n"


def test_text_that_is_a_program_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"meta": {"config": TEXTS["fcos"] + CODE}, "state_dict": {"a": torch.ones(1)}}, "a.pth")
    with pytest.raises(UserError, match="more than a value.*was not executed"):
        Detector.from_checkpoint("a.pth")
    torch.save(
        {"meta": {"config": TEXTS["fcos"].replace("'FCOSHead'", "'os.system'")}, "state_dict": {"a": torch.ones(1)}},
        "b.pth",
    )
    with pytest.raises(UserError, match=r"model.bbox_head.type='os.system'.*not built"):
        Detector.from_checkpoint("b.pth")
    assert not (tmp_path / "ran").exists()
