"""``fcos-train simplify``: fewer nodes, the same values, or no file."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from fcos_train.cli.main import main
from fcos_train.deploy.parts.session import cpu_session

onnxslim = pytest.importorskip("onnxslim")
GRAPH = """<ir_version: 7, opset_import: ["" : 13]> g (float[1,3,32,64] x) => (float[1,2,32,64] y, int64[2] z) {
    a = Identity(x) b = Conv<kernel_shape=[1,1]>(a, w) c = Identity(b) y = Relu(c)
    s = Shape(c) z = Slice(s, two, four)
}"""
DESCRIPTION = {
    "classes": ["one"],
    "input": {"name": "x", "example_shape": [32, 64]},
    "mean": [0, 0, 0],
    "std": [1, 1, 1],
    "bgr_to_rgb": False,
    "resize": {"keep_ratio": True},
}


@pytest.fixture
def model(tmp_path):
    """A file with nodes that do nothing, and its description."""
    graph = parser.parse_model(GRAPH)
    weight = np.random.default_rng(0).standard_normal((2, 3, 1, 1)).astype(np.float32)
    for name, value in (("w", weight), ("two", np.int64([2])), ("four", np.int64([4]))):
        graph.graph.initializer.append(numpy_helper.from_array(value, name))
    path = tmp_path / "m.onnx"
    onnx.save(graph, path)
    path.with_suffix(".json").write_text(json.dumps(DESCRIPTION))
    return path


def run(capsys, *words) -> tuple[int, str, str]:
    status = main(["simplify", *map(str, words)])
    return status, *capsys.readouterr()


def test_fewer_nodes_and_the_same_values(model, tmp_path, capsys):
    output = tmp_path / "folder" / "m-update.onnx"
    status, said, _ = run(capsys, model, output)
    assert status == 0 and "6 nodes became 3, the values are the same on 2 images" in said
    assert json.loads(output.with_suffix(".json").read_text()) == DESCRIPTION
    image = np.random.default_rng(1).standard_normal((1, 3, 32, 64)).astype(np.float32)
    (old, size), (new, other) = (cpu_session(str(path)).run(["y", "z"], {"x": image}) for path in (model, output))
    assert np.array_equal(old, new) and size.tolist() == other.tolist() == [32, 64]


def test_changed_values_are_not_written(model, tmp_path, capsys, monkeypatch):
    def wrong(graph):
        weight = next(tensor for tensor in graph.graph.initializer if tensor.name == "w")
        weight.CopyFrom(numpy_helper.from_array(1.01 * numpy_helper.to_array(weight), "w"))
        return graph

    monkeypatch.setattr(onnxslim, "slim", wrong)
    status, said, error = run(capsys, model, tmp_path / "b.onnx")
    assert status == 2 and "onnxslim changes the values of y;" in error and "FAILED" in said
    assert not (tmp_path / "b.onnx").exists() and not (tmp_path / "b.json").exists()


def test_what_is_refused(model, tmp_path, capsys):
    assert "output b.pb: must end in .onnx" in run(capsys, model, "b.pb")[2]
    assert "is the file to simplify" in run(capsys, model, model)[2]
    assert "no such file" in run(capsys, tmp_path / "none.onnx", "b.onnx")[2]
    model.with_suffix(".json").write_text(json.dumps({**DESCRIPTION, "custom_operators": ["RoiExtractor"]}))
    assert "has operators of CANN" in run(capsys, model, tmp_path / "b.onnx")[2]
    model.with_suffix(".json").unlink()
    assert "has no description beside it" in run(capsys, model, tmp_path / "b.onnx")[2]
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
