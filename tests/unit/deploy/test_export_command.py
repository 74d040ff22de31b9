"""The command, its old spelling, and what it answers to wrong input."""

import json
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest

from fcos_train.cli.main import main
from tests.support.small_detectors import small_config, write_checkpoint

onnxruntime = pytest.importorskip("onnxruntime")

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny.pth", small_config("fcos-plain")))


def _refused(capsys, *arguments):
    assert main(["export", *map(str, arguments)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    return lines[0]


def test_the_command_writes_beside_the_caller(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("one.png", np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    assert main(["export", checkpoint, "--shape", "64", "--input-img", "one.png", "--simplify"]) == 0
    said = capsys.readouterr().out
    assert "opset 17" in said and "input 1 x 3 x 64 x 64" in said
    assert "on 2 images (one.png and a generated one)" in said
    assert "The numerical values are the same between Pytorch and ONNX" in said
    assert "note: --simplify has no effect" in said
    assert sorted(file.name for file in tmp_path.glob("tiny*")) == ["tiny_nms.json", "tiny_nms.onnx"]


def test_config_and_checkpoint_as_mmdet_2_takes_them(checkpoint, tmp_path, capsys):
    config, path = tmp_path / "config.py", tmp_path / "out" / "model.onnx"
    small_config("fcos-plain").dump(config)
    arguments = [str(config), checkpoint, "--output-file", str(path), "--end", "raw", "--shape", "64", "96"]
    assert main(["export", *arguments, "--dynamic-export", "--opset-version", "13"]) == 0
    assert json.loads(path.with_suffix(".json").read_text())["input"]["shape"] == ["batch", 3, "height", "width"]


def test_the_old_script_without_any_argument(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    script = runpy.run_path(str(ROOT / "pthtar2onx.py"))
    assert len((ROOT / "pthtar2onx.py").read_text().splitlines()) <= 40
    assert main(["export", *script["arguments"]([])]) == 2
    assert "latest.pth" in capsys.readouterr().err
    folder = tmp_path / "work_dirs" / "mine"
    folder.mkdir(parents=True)
    (folder / "latest.pth").write_bytes(Path(checkpoint).read_bytes())
    assert main(["export", *script["arguments"](["--shape", "64", "96"])]) == 0
    session = onnxruntime.InferenceSession(str(tmp_path / "tmp.onnx"))
    assert [value.name for value in session.get_inputs()] == ["input"]
    assert [value.name for value in session.get_outputs()] == ["boxes", "labels"]
    assert "opset 11 (the default)" in capsys.readouterr().out
    assert main(["export", *script["arguments"](["--shape", "64", "96", "--opset", "12", "--output_file=a.onnx"])]) == 0
    assert "opset 12 (as asked)" in capsys.readouterr().out and (tmp_path / "a.onnx").is_file()


def test_any_key_of_the_configuration_can_be_changed(checkpoint, tmp_path, capsys):
    path = tmp_path / "model.onnx"
    arguments = [checkpoint, "--output-file", path, "--shape", "64", "--cfg-options"]
    changes = ["model.test_cfg.nms.iou_threshold=0.3", "test_cfg.max_per_img=7"]
    assert main(["export", *map(str, arguments), *changes]) == 0
    content = json.loads(path.with_suffix(".json").read_text())
    assert content["test_cfg"]["iou_threshold"] == 0.3 and content["test_cfg"]["max_per_img"] == 7
    (dets,) = onnxruntime.InferenceSession(str(path)).get_outputs()[:1]
    assert dets.shape == [1, 7, 5]
    said = _refused(capsys, *arguments, "model.test_cfg.nms.iou_treshold=0.3")
    assert "--cfg-options" in said and "iou_threshold" in said
    assert "key=value" in _refused(capsys, *arguments, "model")
    changed = _refused(capsys, *arguments, "model.bbox_head.feat_channels=8")
    assert "does not fit the configuration" in changed


def test_a_missing_or_broken_checkpoint(tmp_path, capsys):
    assert "nowhere.pth" in _refused(capsys, tmp_path / "nowhere.pth")
    (tmp_path / "broken.pth").write_bytes(b"no checkpoint")
    assert "broken.pth" in _refused(capsys, tmp_path / "broken.pth")
    assert not list(tmp_path.glob("*.onnx"))


def test_a_configuration_of_another_model(checkpoint, tmp_path, capsys):
    config = tmp_path / "other.py"
    small_config("retinanet").dump(config)
    said = _refused(capsys, checkpoint, "--config", config, "--output-file", tmp_path / "model.onnx")
    assert "does not fit the configuration" in said
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "16", "64"], "at least 32"),
        (["--shape", "64", "64", "64"], "height and width"),
        (["--opset", "9"], "between 11 and 20"),
        (["--opset", "25"], "between 11 and 20"),
        (["--dynamic", "depth"], "choose from batch, height, width"),
        (["--end", "ascend", "--dynamic-export"], "fixed height and width"),
        (["--score-thr", "2"], "between 0 and 1"),
        (["--output-file", "model.pb"], "end in .onnx"),
        (["--std", "1", "0", "1"], "must not be 0"),
        (["--batch", "0"], "at least 1"),
        (["--input-img", "nothing.jpg"], "nothing.jpg"),
        (["--endd", "raw"], "did you mean --end"),
    ],
)
def test_wrong_options(arguments, message, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert message in _refused(capsys, checkpoint, *arguments)
    assert not list(tmp_path.iterdir())


def test_empty_folders_and_corrupt_images(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert "no image in this folder" in _refused(capsys, checkpoint, "--input-img", "empty")
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8 half an image")
    assert "bad.jpg" in _refused(capsys, checkpoint, "--input-img", "bad.jpg")


def test_a_detector_without_a_way(checkpoint, tmp_path, capsys):
    config = small_config("retinanet")
    config.model.bbox_head.update(type="RetinaSepBNHead", num_ins=5, norm_cfg={"type": "BN"})
    path = write_checkpoint(tmp_path / "other.pth", config)
    assert "RetinaSepBNHead" in _refused(capsys, path)


def test_soft_suppression_is_not_replaced_silently(tmp_path, capsys):
    config = small_config("fcos-plain")
    config.model.test_cfg.nms = {"type": "soft_nms", "iou_threshold": 0.5}
    path = write_checkpoint(tmp_path / "soft.pth", config)
    assert "soft_nms" in _refused(capsys, path, "--shape", "64", "--output-file", tmp_path / "model.onnx")
    raw = tmp_path / "raw.onnx"
    assert main(["export", str(path), "--end", "raw", "--shape", "64", "--output-file", str(raw)]) == 0
