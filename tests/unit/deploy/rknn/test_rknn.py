"""RKNN files: with the real toolkit where it is installed, and all that is around it with a stand-in."""

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

if find_spec("onnxruntime") is None:
    pytest.skip("onnxruntime is not installed", allow_module_level=True)

from fcos_train.cli.main import main
from fcos_train.deploy.artefact import ExportedDetector, open_artefact
from fcos_train.deploy.parts.description import read_description
from fcos_train.deploy.rknn.target import VARIABLE, toolchain
from mmcv_overrides.errors import UserError
from tests.support.conversions import SHAPE, Conversions, largest
from tests.support.fake_rknn import make_toolchain

REAL = os.environ.get(VARIABLE)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return Conversions(tmp_path_factory.mktemp("rknn"))


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    return make_toolchain(tmp_path_factory.mktemp("toolchain"))


@pytest.fixture(autouse=True)
def _toolchain(stand_in, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(stand_in))


@pytest.fixture(scope="module")
def exported(work, stand_in):
    """fp16 and int8 artefacts of the stand-in, and the lines of their exports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(stand_in))
        half = work.export("rknn", "half.rknn")
        return {"fp16": half, "int8": work.export("rknn", "int8.rknn", precision="int8", chip="rv1106")}


def test_pixels_that_the_model_normalises_give_the_maps_of_pytorch(work, exported):
    """The stand-in computes in float: what is left is the rounding of pixels = normalised * std + mean."""
    for found, _ in exported.values():
        assert max(largest(found.blobs).values()) < 1e-4
    description = read_description(exported["fp16"][0].description)
    assert description["rknn"]["chip"] == "rk3588" and description["precision"] == "fp16"
    detector = ExportedDetector(exported["int8"][0].path)
    assert len(detector(np.zeros((*SHAPE, 3), np.uint8)).scores) > 0


def test_what_the_simulator_builds_from_is_kept(exported):
    names = {key: [file.name for file in found.files] for key, (found, _) in exported.items()}
    assert names == {
        "fp16": ["half.rknn", "half.rknn.onnx"],
        "int8": ["int8.rknn", "int8.rknn.model", "int8.rknn.data", "int8.rknn.quantization.cfg"],
    }
    lines = exported["int8"][1]
    assert "calibrating with 4 images" in lines
    assert "to the board: int8.rknn, int8.rknn.json and fcos_train/deploy/decoder (numpy only)" in lines
    lowest, images = json.loads(exported["int8"][0].files[3].read_text())
    assert images == 4 and 0 <= lowest < 100  # pixels, not normalised values, which reach below -100


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def _lose_a_kept_file(path: Path) -> None:
    path.with_name(path.name + ".data").unlink()


def _lose_the_section(path: Path) -> None:
    place = path.with_name(path.name + ".json")
    place.write_text(json.dumps({k: v for k, v in json.loads(place.read_text()).items() if k != "rknn"}))


@pytest.mark.parametrize(
    "damage, message",
    [
        (_truncate, "is not the file that was exported"),
        (_lose_a_kept_file, r"lacks int8\.rknn\.data beside it: the simulator cannot read a \.rknn file"),
        (_lose_the_section, "its description is not of --target rknn"),
        (Path.unlink, "there is no such file"),
    ],
)
def test_damaged_artefacts_are_refused(exported, tmp_path, damage, message):
    found = exported["int8"][0]
    for file in (*found.files, found.description):
        shutil.copy(file, tmp_path)
    path = tmp_path / found.path.name
    damage(path)
    with pytest.raises(UserError, match=message) as error:
        open_artefact(path, read_description(path.with_name(path.name + ".json")))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--chip", "rv1126"], "--chip rv1126: choose from rk3588, rk3576,"),
        (["--chip", "rv1106"], "--chip rv1106 computes in int8 only: add --precision int8 --data-path DIR"),
        (["--chip", "rk2118"], "rknn-toolkit2: the configuration failed; config: rk2118 is refused by the stand-in"),
        (["--precision", "fp32"], "--precision fp32: --target rknn has fp16, int8"),
        (["--precision", "int8"], "int8 needs images to measure the ranges of activations: give --data-path DIR"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(work, tmp_path, capsys, words, message):
    output = ["--shape", *map(str, SHAPE), "--output-file", str(tmp_path / "m.rknn")]
    assert main(["export", work.checkpoint, "--target", "rknn", *output, *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_the_toolkit_the_script_is_named(work, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    assert main(["export", work.checkpoint, "--target", "rknn"]) == 2
    error = capsys.readouterr().err
    assert "bash scripts/setup_rknn_toolchain.sh [FOLDER] installs it" in error and error.count("\n") == 1
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache/fcos-train/rknn/bin").mkdir(parents=True)
    (tmp_path / ".cache/fcos-train/rknn/bin/python").touch()
    assert toolchain() == tmp_path / ".cache/fcos-train/rknn/bin/python"


@pytest.mark.skipif(not REAL, reason=f"rknn-toolkit2 is not installed ({VARIABLE} is not set)")
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_the_real_toolkit(work, monkeypatch, precision):
    monkeypatch.setenv(VARIABLE, str(REAL))
    found, _ = work.export("rknn", f"real_{precision}.rknn", precision=precision)
    assert all(blob.cosine > (0.9999 if precision == "fp16" else 0.98) for blob in found.blobs)
    assert largest(found.blobs)["cls"] > 1e-4  # it is not computed in float
    again = work.maps(found.path)  # built once more from what was kept
    assert len(again) == 15
    assert [a.tolist() for a in again] == [a.tolist() for a in work.maps(found.path)]
