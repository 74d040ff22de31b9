"""What all targets of the export share: the pipeline, the comparison of maps, the table, the call like a checkpoint."""

from dataclasses import replace
from importlib.util import find_spec

import cv2
import numpy as np
import pytest

from tests.support.small_detectors import CLASSES, small_config, write_checkpoint

pytest.importorskip("onnxruntime")
if find_spec("openvino") is None:  # not importorskip: its import reports to a server unless our target makes it
    pytest.skip("openvino is not installed", allow_module_level=True)

from fcos_train.data.shapes import draw_image
from fcos_train.deploy.artefact import ExportedDetector
from fcos_train.deploy.compare import compare, table
from fcos_train.deploy.convert import convert
from fcos_train.deploy.onnx.export import NotTheSame
from fcos_train.deploy.options import CompareOptions, TargetOptions
from fcos_train.deploy.parts.blobs import FLOAT32, Limits, compare_maps
from fcos_train.deploy.parts.calibration import calibration_files, spread
from fcos_train.deploy.targets import SUFFIXES, TARGETS, named_by, suffix_of, target_of
from fcos_train.infer.detector import Detector
from mmcv_overrides.errors import UserError

SHAPE = (96, 128)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "small.pth", small_config("fcos-centre")))


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    lines = []
    path = tmp_path_factory.mktemp("exported") / "small.xml"
    options = TargetOptions(checkpoint, target="openvino", shape=SHAPE, output=str(path))
    return convert(options, lines.append), lines


def test_every_map_is_compared_before_the_files_get_their_names(exported):
    found, lines = exported
    folder = found.path.parent
    assert {file.name for file in folder.iterdir()} == {"small.xml", "small.bin", "small.xml.json"}
    assert [blob.name for blob in found.blobs] == [f"{part}_{n}" for part in ("cls", "box", "ctr") for n in range(5)]
    assert all(blob.fault is None and blob.largest < 1e-4 and blob.cosine > 0.999999 for blob in found.blobs)
    said = "\n".join(lines)
    assert "every map compared with PyTorch's on 2 images" in said and "detections: " in said
    assert "Successfully exported openvino model: small.xml" in lines[-1] and "exported ONNX" not in said


def test_files_of_another_target_are_not_overwritten(checkpoint, exported):
    path = exported[0].path.with_suffix(".param")
    with pytest.raises(UserError, match=r"ncnn: small.bin belongs to .*small.xml; give another --output-file"):
        convert(TargetOptions(checkpoint, target="ncnn", shape=SHAPE, output=str(path)), str)
    assert not path.exists()


def test_maps_that_differ_leave_files_with_another_name(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(type(target_of("openvino")), "limits", {"fp32": Limits(strides=0.0)})
    path = tmp_path / "small.xml"
    with pytest.raises(NotTheSame, match=r"box_\d: difference .*limit 0\).*kept as .*small.failed.xml"):
        convert(TargetOptions(checkpoint, target="openvino", shape=SHAPE, output=str(path)), str)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"small.failed.xml", "small.failed.bin", "small.failed.xml.json"}


def test_differences_are_in_strides_and_every_level_counts():
    entries = [{"name": f"box_{i}", "part": "box", "level": i, "stride": 8 * 2**i} for i in range(2)]
    description = {"outputs": entries, "decode": {"unit": "px"}}
    theirs = [np.ones((1, 4, 2, 2), np.float32), np.ones((1, 4, 1, 1), np.float32)]
    ours = [theirs[0], theirs[1] + 0.032]
    same, other = compare_maps(description, [ours], [theirs], FLOAT32)
    assert (same.largest, same.fault) == (0.0, None)
    assert other.largest == pytest.approx(0.002, rel=1e-4) and other.fault == "difference 2.00e-03, limit 0.001"
    description["decode"]["unit"] = "stride"
    assert compare_maps(description, [ours], [theirs], FLOAT32)[1].largest == pytest.approx(0.032, rel=1e-4)
    turned = compare_maps(description, [[theirs[0], -theirs[1]]], [theirs], Limits(cosine=0.9))[1]
    assert turned.cosine == pytest.approx(-1) and "cosine similarity -1.0000" in turned.fault
    wrong = compare_maps(description, [[theirs[0], theirs[0]]], [theirs], Limits())[1]
    assert "shape is (1, 4, 2, 2)" in wrong.fault
    empty = compare_maps(description, [[theirs[0], theirs[1] * np.nan]], [theirs], Limits())[1]
    assert empty.fault == "it has values that are not finite"


def test_the_artefact_detects_what_the_checkpoint_does(exported, checkpoint):
    image, _, _ = draw_image(np.random.default_rng(3), (SHAPE[1], SHAPE[0]))
    ours, theirs = ExportedDetector(exported[0].path), Detector.from_checkpoint(checkpoint, device="cpu")
    theirs.pipeline = ours_at_input_size(theirs.pipeline)
    found, wish = ours(image), theirs(image)
    assert ours.classes == CLASSES and len(found) == len(wish) > 10
    np.testing.assert_allclose(found.boxes, wish.boxes, atol=1e-2)
    np.testing.assert_allclose(found.scores, wish.scores, atol=1e-4)
    assert (found.labels == wish.labels).mean() > 0.95


def ours_at_input_size(pipeline):
    for step in pipeline.transforms:
        if type(step).__name__ == "Resize":
            step.scale, step.scale_factor = (SHAPE[1], SHAPE[0]), None
    return pipeline


def test_one_table_of_checkpoint_and_exports(exported, checkpoint, tmp_path):
    from fcos_train.cli.main import main

    assert main(["make-shapes", str(tmp_path / "data"), "--train", "2", "--val", "3"]) == 0
    for name in ("train", "val"):  # the checkpoint has a class more than the shapes
        file = tmp_path / "data" / "annotations" / f"instances_{name}2017.json"
        file.write_text(file.read_text().replace('"categories": [', '"categories": [{"id": 99, "name": "cross"}, '))
    options = CompareOptions(checkpoint, (str(exported[0].path),), data_path=str(tmp_path / "data"), rounds=2)
    own, row = compare(options, str)
    assert row.own == pytest.approx(row.torchs, abs=1e-3) and row.torchs == own.own and row.agrees
    assert set(row.differences) == {"cls", "box", "ctr"} and max(row.differences.values()) < 1e-3
    assert len(row.wall) == len(row.cpu) == len(own.wall) == 2
    assert row.megabytes == pytest.approx(sum(file.stat().st_size for file in exported[0].files) / 1e6)
    lines = table([own, replace(row, own=0.5, torchs=0.51, tolerance=0.001)])
    assert lines[2].startswith("| small.pth (PyTorch) |") and "| 0.5000 | 0.5100 ABOVE 0.001 |" in lines[3]


FAULTS = {
    "another suffix": ({"target": "openvino", "output": "a.onnx"}, "must end in .xml"),
    "an option of ONNX": ({"target": "openvino", "batch": 4}, "--batch does not apply to --target openvino"),
    "an option of targets": ({"precision": "fp16"}, "--precision applies to other targets than onnx"),
    "unknown target": ({"target": "tflite"}, "choose from onnx"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_options_that_do_not_fit_are_refused(name, checkpoint):
    values, says = FAULTS[name]
    with pytest.raises(UserError, match=says):
        TargetOptions(checkpoint, **values)


def test_calibration_is_checked_before_anything_is_exported(checkpoint, tmp_path):
    options = {"target": "openvino", "precision": "int8", "output": str(tmp_path / "a.xml")}
    lines = []
    with pytest.raises(UserError, match="give --data-path"):
        convert(TargetOptions(checkpoint, **options), lines.append)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="the folder is empty"):
        convert(TargetOptions(checkpoint, data_path=str(tmp_path / "empty"), **options), lines.append)
    assert lines == [] and [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_calibration_images_are_spread_over_the_folder(tmp_path):
    for number in range(10):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((2, 2, 3), np.uint8))
    files = calibration_files(tmp_path, tmp_path / "cache")
    assert [file.name for file in spread(files, 4)] == ["0.png", "3.png", "6.png", "9.png"]
    assert spread(files, 99) == files


def test_targets_are_recognised_by_the_suffix_of_their_main_file(tmp_path):
    assert set(SUFFIXES.values()) <= set(TARGETS) and named_by("a/b.pth") is None and named_by("a.onnx") == "onnx"
    for suffix, name in SUFFIXES.items():
        target, main = target_of(name), tmp_path / f"m_{name}" / f"m{suffix}"
        main.parent.mkdir(exist_ok=True)
        main.touch()
        assert (target.name, named_by(main), suffix_of(name)) == (name, name, target.suffix)
        assert set(target.precisions) == set(target.limits) and main in target.files(main)
