"""OpenVINO models in every precision, run by OpenVINO; damaged files are one line each."""

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

for name in ("onnxruntime", "openvino", "nncf"):  # not imported here: see `without_telemetry`
    if find_spec(name) is None:
        pytest.skip(f"{name} is not installed", allow_module_level=True)

from fcos_train.deploy.artefact import ExportedDetector, open_artefact
from fcos_train.deploy.parts.description import read_description
from mmcv_overrides.errors import UserError
from tests.support.conversions import MAPS, Conversions, largest


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return Conversions(tmp_path_factory.mktemp("openvino"))


@pytest.fixture(scope="module")
def exported(work):
    """The artefact in single precision, and the lines of its export."""
    return work.export("openvino", "model.xml")


def test_single_precision_is_pytorch_and_runs_like_a_checkpoint(work, exported):
    found, lines = exported
    assert [file.name for file in found.files] == ["model.xml", "model.bin"]
    assert [blob.name for blob in found.blobs] == MAPS
    assert max(largest(found.blobs).values()) < 1e-4
    assert any(line.startswith("detections: ") for line in lines)
    counts = next(line for line in lines if line.startswith("detections: ")).split()
    assert counts[1] == counts[5].rstrip(",") == counts[-1]  # all in common
    detector = ExportedDetector(found.path)
    assert detector.classes == ("circle", "square", "triangle", "cross")
    assert len(detector(np.zeros((96, 128, 3), np.uint8)).scores) > 0


def test_its_map_is_that_of_the_checkpoint(work, exported):
    status, line = work.evaluate(exported[0].path)
    assert (status, line) == (0, "4 images; the difference in mAP is within the tolerance of 0.001")


def test_half_precision_weights_are_half_the_size(work, exported):
    found, _ = work.export("openvino", "half.xml", precision="fp16")
    sizes = [file.with_suffix(".bin").stat().st_size for file in (found.path, exported[0].path)]
    assert 0.45 < sizes[0] / sizes[1] < 0.55
    assert 1e-5 < largest(found.blobs)["cls"] < 0.1 and largest(found.blobs)["box"] < 0.05


def test_int8_is_calibrated_and_no_progress_bar_gets_into_the_log(work, exported, capfd):
    found, lines = work.export("openvino", "int8.xml", precision="int8", calibration_images=3)
    assert "calibrating with 3 images" in lines
    assert capfd.readouterr().out == ""
    assert found.path.read_text().count('type="FakeQuantize"') > 20
    assert all(blob.cosine > 0.9 for blob in found.blobs) and largest(found.blobs)["cls"] > 1e-2
    assert found.path.with_suffix(".bin").stat().st_size < exported[0].path.with_suffix(".bin").stat().st_size / 2


def test_nothing_is_reported_to_a_server(exported):
    assert "openvino" in sys.modules and sys.modules["openvino_telemetry"] is None


def _no_weights(path: Path) -> None:
    path.with_suffix(".bin").unlink()


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _half_weights(path: Path) -> None:
    _half(path.with_suffix(".bin"))


def _another_format(path: Path) -> None:
    path.write_text("<annotation/>")


def _another_output(path: Path) -> None:
    path.write_text(path.read_text().replace('"ctr_2"', '"ctr_9"'))


def _no_graph(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    "damage, message",
    [
        (_no_weights, r"m\.xml lacks its weights m\.bin beside it"),
        (_half_weights, r"m\.xml cannot be loaded by OpenVINO: Incorrect weights in bin file"),
        (_half, r"m\.xml cannot be loaded by OpenVINO: "),
        (_another_format, r"m\.xml cannot be loaded by OpenVINO: it is not the graph of a model"),
        (_another_output, r"m\.xml has no output ctr_2: it does not belong to its description"),
        (_no_graph, r"m\.xml: there is no such file"),
    ],
)
def test_damaged_files_are_refused(exported, tmp_path, damage, message):
    for file in exported[0].files:
        shutil.copy(file, tmp_path / f"m{file.suffix}")
    damage(tmp_path / "m.xml")
    with pytest.raises(UserError, match=message) as error:
        open_artefact(tmp_path / "m.xml", read_description(exported[0].description))
    assert "\n" not in str(error.value)


def test_a_description_of_another_size_is_refused(exported):
    description = read_description(exported[0].description)
    description["input"]["example_shape"] = [64, 64]
    with pytest.raises(UserError, match=r"takes an input \[1, 3, 96, 128\], its description says \[1, 3, 64, 64\]"):
        open_artefact(exported[0].path, description)
