"""The whole offline inference pipeline in one command, on data labelled by one of two random detectors."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from fcos_train.cli.main import main
from fcos_train.deploy.parts.accuracy import Comparison
from fcos_train.deploy.parts.coco_numbers import CocoNumbers
from fcos_train.deploy.parts.description import beside, read_description, read_rule
from mmcv_overrides.errors import UserError
from tests.support import ais_bench
from tests.support.self_labelled import label_with, table
from tests.support.small_detectors import small_config, write_checkpoint

pytest.importorskip("onnxruntime")
SHAPE = ["--shape", "96", "128"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """`a.pth`, `b.pth`, and `data/` whose boxes are the best detections of `a.pth`."""
    from fcos_train.infer.detector import Detector

    root = tmp_path_factory.mktemp("pipeline")
    config = small_config("fcos-gn")
    config.test_dataloader.dataset.pipeline[1].scale = (128, 96)
    for seed, name in enumerate("ab"):
        write_checkpoint(root / f"{name}.pth", config, seed)
    detector = Detector.from_checkpoint(root / "a.pth", device="cpu")
    label_with(detector, root / "data")
    return root


def run(labelled: Path, work: Path, *words) -> int:
    fixed = [
        "--checkpoint",
        labelled / "a.pth",
        "--data-path",
        labelled / "data",
        "--work-dir",
        work,
        "--device",
        "cpu",
    ]
    return main(["ascend", "evaluate", *map(str, [*fixed, *words])])


@pytest.mark.parametrize("end", ["nms", "decoded", "raw"])
def test_export_and_checkpoint_agree(labelled, tmp_path, capsys, end):
    assert run(labelled, tmp_path, "--end", end, *SHAPE) == 0
    text = capsys.readouterr().out
    rows = table(text)
    assert rows["pth"][0] > 0.3  # the boxes were made by it
    assert abs(rows["pth"][0] - rows["exported"][0]) <= 0.001 and rows["difference"][0] <= 0.001
    assert text.splitlines()[-1] == "4 images; the difference in mAP is within the tolerance of 0.001"
    assert [p.name for p in sorted((tmp_path / "bin").iterdir())] == [f"cell_{i}.bin" for i in range(4)]
    assert (tmp_path / "bin" / "cell_0.bin").stat().st_size == 3 * 96 * 128 * 4
    dumps = tmp_path / "result" / "dumpOutput_device0"
    assert {p.name: p.stat().st_size for p in dumps.iterdir()} == {
        f"cell_{i}_{k}.bin": {1: 2000, 2: 800}[k] for i in range(4) for k in (1, 2)
    }
    assert (tmp_path / "bin.info").read_text().splitlines()[3] == f"3 {tmp_path}/bin/cell_3.bin 128 96"
    assert (tmp_path / "coco_detection_result_exported.txt").read_text().startswith("bbox_mAP: ")


def test_ascend_graph_agrees_in_the_reference_evaluator(labelled, tmp_path, capsys):
    assert run(labelled, tmp_path, "--end", "ascend", "--limit", 2, "--tolerance", 0.03, *SHAPE) == 0
    rows = table(capsys.readouterr().out)
    assert rows["pth"][0] > 0.3 and rows["difference"][0] <= 0.03


def test_a_graph_that_normalises_itself_takes_pixels(labelled, tmp_path, capsys):
    words = ["export", labelled / "a.pth", "--output-file", tmp_path / "a.onnx", *SHAPE, "--normalize-in-graph"]
    assert main([str(word) for word in words]) == 0
    assert run(labelled, tmp_path / "work", "--model", tmp_path / "a.onnx") == 0
    rows = table(capsys.readouterr().out)
    assert rows["pth"][0] > 0.3 and rows["difference"][0] <= 0.001
    values = np.frombuffer((tmp_path / "work" / "bin" / "cell_0.bin").read_bytes(), "<f4")
    assert values.min() >= 0 and values.max() > 100 and (values == np.rint(values)).mean() > 0.9


def test_om_goes_through_ais_bench(labelled, tmp_path, monkeypatch, capsys):
    """An ais_bench that copies the dumps of the ONNX file, numbered from 0, replaces the card."""
    work = tmp_path / "work"
    assert run(labelled, work, *SHAPE) == 0
    want = table(capsys.readouterr().out)["exported"]
    (work / "result" / "dumpOutput_device0").rename(tmp_path / "dumps")
    copy = f"cp {tmp_path}/dumps/cell_${{i}}_$k.bin $out/$name/cell_${{i}}_$((k - 1)).bin"
    tools, said = ais_bench.stand_in(tmp_path, f"for i in 0 1 2 3; do for k in 1 2; do {copy}; done; done")
    (tmp_path / "a.om").write_bytes(b"om")
    om = ["--model", tmp_path / "a.om", "--sidecar", work / "a_nms.json"]
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert run(labelled, work, *om) == 2
    assert "ais_bench is not installed here" in capsys.readouterr().err
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    assert run(labelled, work, *om) == 0
    text = capsys.readouterr().out
    assert table(text)["exported"] == want and text.endswith("within the tolerance of 0.003\n")
    words = said.read_text().split()
    assert words[words.index("--input") + 1] == str(work / "bin") and "--warmup_count" not in words


def test_another_model_is_told_apart(labelled, tmp_path, capsys):
    words = ["export", labelled / "b.pth", "--output-file", tmp_path / "b.onnx", *SHAPE]
    assert main([str(word) for word in words]) == 0
    capsys.readouterr()
    assert run(labelled, tmp_path / "work", "--model", tmp_path / "b.onnx") == 1
    text = capsys.readouterr().out
    rows = table(text)
    assert rows["difference"][0] > 0.1 and "ABOVE the tolerance of 0.001" in text


def test_tolerance_is_met_by_what_is_printed():
    def found(pth: float, exported: float) -> Comparison:
        return Comparison(CocoNumbers((pth,) * 12), CocoNumbers((exported,) * 12), 0.001, 1)

    assert found(0.5, 0.501).agrees and found(0.501, 0.5).agrees
    assert not found(0.5, 0.5011).agrees and not found(0.5011, 0.5).agrees


def test_rule_of_the_description(tmp_path):
    content = {
        "classes": ["a"],
        "input": {"example_shape": [64, 96], "normalize_in_graph": False},
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "bgr_to_rgb": True,
        "resize": {"keep_ratio": True},
    }
    (tmp_path / "m.json").write_text(json.dumps(content))
    rule = read_rule(beside(tmp_path / "m.onnx"))
    # 100 x 60 into 96 x 64: s = 0.96, 60 * 0.96 = 57.6 -> 58; top left, RGB
    found = rule.prepare(np.full((60, 100, 3), (10, 20, 30), np.uint8))
    assert found.shape == (3, 64, 96) and not found[:, 58:].any()
    assert found[:, 57, 95] == pytest.approx([(30 - 123.675) / 58.395, (20 - 116.28) / 57.12, (10 - 103.53) / 57.375])
    # back by the rounded sides, 96/100 and 58/60, and cut at the image's border
    boxes = np.array([[9.6, 29, 96, 58], [-5, 40, 48, 64]])
    assert rule.restore(boxes, 100, 60).tolist() == [
        pytest.approx([10, 30, 100, 60]),
        pytest.approx([0, 2400 / 58, 50, 60]),
    ]
    content["input"]["normalize_in_graph"] = True
    (tmp_path / "m.json").write_text(json.dumps(content))
    assert read_rule(tmp_path / "m.json").prepare(np.full((6, 9, 3), (1, 2, 3), np.uint8))[:, 0, 0].tolist() == [
        1,
        2,
        3,
    ]
    # Padding of a graph that normalises itself holds the mean, in the order of the pixels (BGR): 0 inside of the graph.
    padding = read_rule(tmp_path / "m.json").prepare(np.full((6, 90, 3), 9, np.uint8))[:, 63, 95]
    assert padding.tolist() == [np.float32(value) for value in (103.53, 116.28, 123.675)]
    del content["mean"]
    (tmp_path / "m.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="lacks mean"):
        read_description(tmp_path / "m.json")
    with pytest.raises(UserError, match=r"other.onnx has no description beside it"):
        beside(tmp_path / "other.onnx")


def test_boxes_are_those_of_the_detector_itself(labelled, tmp_path, capsys):
    """The pipeline writes what `fcos-train eval` would count: rescaled and clipped as in mmdet."""
    from fcos_train.infer.detector import Detector

    assert run(labelled, tmp_path, *SHAPE) == 0
    results = json.loads((tmp_path / "coco_detection_result_pth.json").read_text())
    detector = Detector.from_checkpoint(labelled / "a.pth", device="cpu")
    for number in range(4):
        found = detector(cv2.imread(str(labelled / "data" / "val2017" / f"cell_{number}.png"))).above(0.3)
        boxes = np.array([r["bbox"] for r in results if r["image_id"] == number + 10])
        assert len(found) > 3 and boxes.min() >= 0
        boxes[:, 2:] += boxes[:, :2]
        assert boxes.max(0).tolist() <= [256, 192, 256, 192]
        for box in found.boxes:
            assert np.abs(boxes - box).max(1).min() < 0.01


@pytest.mark.parametrize(
    "words,part",
    [
        (["--model", "absent.onnx"], "--model absent.onnx: no such file"),
        (["--data-path", "absent"], "--data-path absent: no such file or folder"),
        (["--limit", "0"], "--limit 0: must be at least 1"),
        (["--tolerance", "-1"], "--tolerance -1.0: must be at least 0"),
    ],
)
def test_faults_are_named(labelled, tmp_path, capsys, words, part):
    assert run(labelled, tmp_path / "work", *words) == 2
    assert part in capsys.readouterr().err and not (tmp_path / "work").exists()


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".run.lock"
    }


def test_faults_leave_finished_files_as_they_were(labelled, tmp_path, capsys):
    work, data = tmp_path / "work", shutil.copytree(labelled / "data", tmp_path / "data")
    image = data / "val2017" / "cell_0.png"
    content = image.read_bytes()
    image.write_bytes(content[:60] + bytes(len(content) - 80) + content[-20:])  # its header and its end are sound
    (tmp_path / "torn.pth").write_bytes((labelled / "a.pth").read_bytes()[:5000])
    (tmp_path / "empty").mkdir()
    other = small_config("retinanet")
    other.dump(tmp_path / "other.py")
    assert run(labelled, work, *SHAPE) == 0
    before = files(work)
    assert len(before) > 4 * 6
    capsys.readouterr()

    def said(*words) -> str:
        assert run(labelled, work, *SHAPE, *words) == 2
        assert files(work) == before
        return capsys.readouterr().err

    assert "1 of 4 images cannot be decoded: " in (message := said("--data-path", data)) and "cell_0.png" in message
    assert "empty" in said("--data-path", tmp_path / "empty")
    assert "absent.pth: no such file" in said("--checkpoint", tmp_path / "absent.pth")
    assert "torn.pth" in said("--checkpoint", tmp_path / "torn.pth")
    message = said("--config", tmp_path / "other.py")
    assert "a.pth does not fit the configuration" in message and "--config FILE" in message
    (work / "a_nms.onnx").write_bytes(b"no model")
    before = files(work)
    assert run(labelled, work, "--model", work / "a_nms.onnx") == 2
    assert "a_nms.onnx cannot be loaded by onnxruntime" in capsys.readouterr().err and files(work) == before


def test_images_without_a_file_are_told(labelled, tmp_path, capsys):
    data = shutil.copytree(labelled / "data", tmp_path / "data")
    (data / "val2017" / "cell_0.png").unlink()
    assert run(labelled, tmp_path / "work", *SHAPE, "--data-path", data) == 0
    text = capsys.readouterr().out
    assert "val: 1 images have no file: left out (cell_0.png)" in text and text.splitlines()[-1].startswith("3 images")


def test_another_data_set_in_the_same_place(labelled, tmp_path, capsys):
    """Files of an earlier run on other images are ignored."""
    assert run(labelled, tmp_path, *SHAPE) == 0
    model = ["--model", tmp_path / "a_nms.onnx"]
    assert run(labelled, tmp_path, *model, "--limit", 2) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 images")
    for folder, count in (("bin", 2), ("result/dumpOutput_device0", 4), ("checkpoint/dumpOutput_device0", 4)):
        assert len(list((tmp_path / folder).iterdir())) == count
    assert len((tmp_path / "bin.info").read_text().splitlines()) == 2


def test_data_of_other_classes_are_refused(labelled, tmp_path, capsys):
    for split in ("train", "val"):
        file = labelled / "data" / "annotations" / f"instances_{split}2017.json"
        other = tmp_path / "data" / "annotations" / file.name
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_text(file.read_text().replace('"cross"', '"hexagon"'))
        (tmp_path / "data" / f"{split}2017").symlink_to(labelled / "data" / f"{split}2017")
    assert run(labelled, tmp_path / "work", "--data-path", tmp_path / "data", *SHAPE) == 2
    assert f"--allow-outside {labelled / 'data' / 'val2017'}" in capsys.readouterr().err
    allowed = ("--allow-outside", labelled / "data")
    assert run(labelled, tmp_path / "work", "--data-path", tmp_path / "data", *allowed, *SHAPE) == 2
    assert "cross" in capsys.readouterr().err
