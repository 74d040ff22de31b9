"""An export of weights that are not trained: ties of detections are accepted on request, wrong maps never."""

import json

import numpy as np
import onnx
import pytest

from tests.support.small_detectors import small_config, write_checkpoint

pytest.importorskip("onnxruntime")

from fcos_train.deploy.onnx import export as exporting
from fcos_train.deploy.onnx import untrained
from fcos_train.deploy.onnx.compare import Difference
from fcos_train.deploy.onnx.export import ExportOptions, NotTheSame, export


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "fsaf.pth", small_config("fsaf")))


def tied(apart: int) -> list[Difference]:
    """What the verification finds where so many of 104 detections have no counterpart."""
    fault = f"{apart} of 104 detections differ by ties, which is too many"
    return [Difference("dets", 0.1, fault, 104 - apart, "", apart, 0), Difference("labels", 0.0, None, 104 - apart)]


@pytest.fixture
def run(checkpoint, tmp_path, monkeypatch):
    """Exports with a verification that finds ``apart`` ties; returns the path and the lines."""

    def run(apart: int, allow: bool = True):
        monkeypatch.setattr(exporting, "verify", lambda *_: (tied(apart), [(1, 3, 64, 96)] * 2, "a stand-in"))
        lines: list[str] = []
        path = tmp_path / "model.onnx"
        export(ExportOptions(checkpoint, output=str(path), shape=(64, 96), allow_untrained=allow), lines.append)
        return path, lines

    return run


def test_ties_are_accepted_on_request_and_the_maps_compared(run):
    path, lines = run(8)
    place = next(i for i, line in enumerate(lines) if line.startswith("--allow-untrained: 8 of 104 detections differ"))
    maps = [line.split()[0] for line in lines[place + 1 :] if "largest difference" in line]
    assert maps == [f"{kind}_{level}" for kind in ("cls", "box") for level in range(5)]
    assert lines[-2] == "The maps are the same between Pytorch and ONNX; detections at ties are not"
    assert "The numerical values are the same between Pytorch and ONNX" not in lines
    assert json.loads(path.with_suffix(".json").read_text())["compared"] == "maps"
    embedded = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert embedded["compared"] == "maps"


def test_without_the_flag_the_message_names_it(run, tmp_path):
    with pytest.raises(NotTheSame, match=r"8 of 104 detections.*--allow-untrained compares the maps instead"):
        run(8, allow=False)
    assert [file.name for file in tmp_path.glob("*.onnx")] == ["model.failed.onnx"]


def test_more_than_half_is_no_matter_of_ties(run):
    with pytest.raises(NotTheSame, match="60 of 104 detections differ, more than ties explain"):
        run(60)


def test_wrong_maps_are_refused(run, monkeypatch):
    write = untrained.write

    def with_changed_weight(graph, opset):
        model = write(graph, opset)
        tensor = next(t for t in model.graph.initializer if t.name.endswith("retina_reg.bias"))
        values = onnx.numpy_helper.to_array(tensor) + np.float32(0.1)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return model

    monkeypatch.setattr(untrained, "write", with_changed_weight)
    with pytest.raises(NotTheSame, match=r"box_\d: .* from float64, PyTorch itself"):
        run(8)
