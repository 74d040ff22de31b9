"""int8 ONNX files: what is quantised and how, the verb, and bad input."""

from importlib.util import find_spec

import numpy as np
import pytest

if find_spec("onnxruntime") is None:
    pytest.skip("onnxruntime is not installed", allow_module_level=True)

import onnx
from onnx import numpy_helper

from fcos_train.cli.main import main
from fcos_train.deploy.artefact import ExportedDetector
from fcos_train.deploy.onnx.compare import overlapping
from fcos_train.deploy.onnx.number_types import to_fp16, to_int8
from fcos_train.deploy.parts.accuracy import tolerance_of
from fcos_train.deploy.targets import named_by
from tests.support.conversions import MAPS, SHAPE, Conversions


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return Conversions(tmp_path_factory.mktemp("onnx_int8"))


def test_the_verb_writes_a_verified_file_that_runs_like_a_checkpoint(work, capsys, monkeypatch):
    monkeypatch.chdir(work.folder)
    words = ["--data-path", str(work.images), "--shape", *map(str, SHAPE), "--calibration-images", "3"]
    assert main(["quantize", work.checkpoint, *words]) == 0
    out = capsys.readouterr().out
    assert "calibrating with 3 images" in out and "Successfully exported onnx-int8 model: model.int8.onnx" in out
    assert [line.split()[0] for line in out.splitlines() if "cosine" in line and "ok" in line] == MAPS
    path = work.folder / "model.int8.onnx"
    graph = onnx.load(path).graph
    ints = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    # every convolution has int8 weights with one scale per output channel
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len([tensor for tensor in ints if len(tensor.dims) == 4]) >= len({node.input[1] for node in convolutions})
    kinds = {node.input[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    scales = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for tensor in ints:
        if len(tensor.dims) == 4:
            assert scales[kinds[tensor.name].input[1]].shape == (tensor.dims[0],)
    assert len(ExportedDetector(path)(np.zeros((*SHAPE, 3), np.uint8)).scores) > 0
    status, line = work.evaluate(path)  # random weights have many near ties, so the mAP itself may differ
    assert line.endswith("the tolerance of 0.02") and status == int("ABOVE" in line)


def test_files_of_the_target_are_told_from_other_onnx_files():
    assert [named_by(name) for name in ("m.int8.onnx", "m.onnx", "m.xml", "m.pth")] == [
        "onnx-int8", "onnx", "openvino", None
    ]  # fmt: skip


def test_limit_of_the_map_by_number_type():
    descriptions = [{"precision": "fp32"}, {}, {"precision": "fp16"}, {"end": "ascend"}, {"precision": "int8"}]
    assert [tolerance_of(found) for found in descriptions] == [0.001, 0.001, 0.003, 0.003, 0.02]
    assert tolerance_of({}, half=True) == 0.003


def _one_convolution(path, opset=17):
    """x [1, 3, 4, 4] -> y = W x with W [2, 3, 1, 1], whose rows have very different sizes."""
    weight = np.array([[1.0, -0.5, 0.25], [127.0, 64.0, -1.0]], np.float32).reshape(2, 3, 1, 1)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"], name="conv")],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, 3, 4, 4))],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (1, 2, 4, 4))],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8), path)


@pytest.mark.parametrize(
    "symmetric, kind, scale, zero", [(False, np.uint8, 3 / 255, 85), (True, np.int8, 2 / 127.5, 0)]
)
def test_scales_are_those_of_the_largest_values(tmp_path, symmetric, kind, scale, zero):
    """Activations from -1 to 2: uint8 has a step of 3 / 255 and its zero at 85; symmetric int8 has +-2."""
    _one_convolution(tmp_path / "float.onnx")
    inputs = [np.linspace(-1, 2, 48, dtype=np.float32).reshape(1, 3, 4, 4)]
    to_int8(tmp_path / "float.onnx", tmp_path / "int8.onnx", inputs, symmetric=symmetric)
    graph = onnx.load(tmp_path / "int8.onnx").graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    first = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "x")
    assert values[first.input[1]] == pytest.approx(scale, rel=0.01)
    assert values[first.input[2]].dtype == kind and values[first.input[2]] == zero
    weights = next(value for value in values.values() if value.shape == (2, 3, 1, 1)).reshape(2, 3)
    # TensorRT takes the weights in float, with a pair of their own
    float_ones = [[1.0, -0.5, 0.25], [127.0, 64.0, -1.0]]
    assert weights.tolist() == (float_ones if symmetric else [[127, -64, 32], [127, 64, -1]])
    pairs = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.output[0] != "y"]
    steps = next(values[node.input[1]] for node in pairs if values[node.input[1]].shape == (2,))
    assert steps.tolist() == pytest.approx([1 / 127, 1.0], rel=0.01)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["float.onnx", "int8.onnx"]


def _depthwise_then_sum(path):
    """x [1, 2, 4, 4] -> depthwise by 1 -> ReLU -> the sum of both channels."""
    node, info, ones = onnx.helper.make_node, onnx.helper.make_tensor_value_info, np.ones((2, 1, 1, 1), np.float32)
    graph = onnx.helper.make_graph(
        [
            node("Conv", ["x", "v"], ["d"], name="depthwise", group=2),
            node("Relu", ["d"], ["r"]),
            node("Conv", ["r", "w"], ["y"], name="sum"),
        ],
        "g",
        [info("x", onnx.TensorProto.FLOAT, (1, 2, 4, 4))],
        [info("y", onnx.TensorProto.FLOAT, (1, 1, 4, 4))],
        [numpy_helper.from_array(ones, "v"), numpy_helper.from_array(ones.reshape(1, 2, 1, 1), "w")],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.mark.parametrize("small, kept", [(1.0, ["depthwise"]), (51.0, [])])
@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_a_convolution_whose_channels_differ_too_much_in_range_stays_float(tmp_path, small, kept, method):
    """Channels of 255 and 1: a step is 1, its rounding 1 / sqrt(12) of the small channel, 0.2 in the quadratic mean of
    both; with 51 it is 0.004. A convolution that mixes them reads hardly any noise: 1 / sqrt(12) / 180."""
    _depthwise_then_sum(tmp_path / "float.onnx")
    value = np.ones((1, 2, 4, 4), np.float32) * np.array([255, small], np.float32).reshape(1, 2, 1, 1)
    assert to_int8(tmp_path / "float.onnx", tmp_path / "int8.onnx", [value], method) == kept
    graph = onnx.load(tmp_path / "int8.onnx").graph
    pairs = {output: node for node in graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    weights = {node.name: node.input[1] in pairs for node in graph.node if node.op_type == "Conv"}
    assert weights == {"depthwise": not kept, "sum": True}


def test_fp16_keeps_the_types_of_input_and_output(tmp_path):
    _one_convolution(tmp_path / "float.onnx")
    to_fp16(tmp_path / "float.onnx", tmp_path / "half.onnx")
    graph = onnx.load(tmp_path / "half.onnx").graph
    kinds = [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)]
    assert kinds == [onnx.TensorProto.FLOAT] * 2
    assert [tensor.data_type for tensor in graph.initializer] == [onnx.TensorProto.FLOAT16]


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "--data-path is needed"),
        (["--data-path", "{empty}"], "the folder is empty; calibration needs images"),
        (["--data-path", "{unreadable}"], "broken.png"),
        (["--data-path", "{images}", "--opset", "11"], "--opset 11: int8 with one scale per channel needs an opset of"),
        (["--data-path", "{images}", "--output-file", "m.onnx"], "--output-file m.onnx: must end in .int8.onnx"),
        (["--data-path", "{images}", "--precision", "fp16"], "--precision fp16: choose from int8"),
        (["--data-path", "{images}", "--end", "decoded"], "--end does not apply to --target onnx-int8"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(work, tmp_path, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    folders = {name: tmp_path / name for name in ("empty", "unreadable")}
    for folder in folders.values():
        folder.mkdir()
    (tmp_path / "unreadable" / "broken.png").write_bytes(b"no image")
    words = [word.format(images=work.images, **folders) for word in words]
    assert main(["quantize", work.checkpoint, "--shape", *map(str, SHAPE), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "unreadable"]


def test_a_plain_onnx_file_does_not_take_the_name_of_an_int8_one(work, capsys):
    assert main(["export", work.checkpoint, "--output-file", "m.int8.onnx"]) == 2
    assert "files of this name belong to --target onnx-int8" in capsys.readouterr().err


def test_detections_in_int8_are_paired_by_overlap():
    """Boxes of 10 x 10: moved by 3 px the IoU is 70 / 130, by 4 px 60 / 140; each counts once, unused rows never."""
    row = [0, 0, 10, 10, 0.9]
    theirs, labels = np.array([[row, row, [0, 0, 10, 10, 0]]], np.float32), np.array([[0, 1, 0]])
    for shift, shared in ((3, 1), (4, 0)):
        moved = np.array([[[shift, 0, 10 + shift, 10, 0.5], [shift, 0, 10 + shift, 10, 0.4]]], np.float32)
        assert overlapping(moved, np.array([[0, 0]]), theirs, labels).tolist() == [shared, 2, 2]


def test_percentile_leaves_out_rare_values(tmp_path, capsys):
    """One value of 10 among 96000 between -1 and 1: the whole range has a step of 11 / 255."""
    _one_convolution(tmp_path / "float.onnx")
    values = np.random.default_rng(0).uniform(-1, 1, (2000, 1, 3, 4, 4)).astype(np.float32)
    values[0, 0, 0, 0, 0] = 10
    steps = {}
    for method in ("minmax", "percentile"):
        to_int8(tmp_path / "float.onnx", tmp_path / "int8.onnx", list(values), method)
        graph = onnx.load(tmp_path / "int8.onnx").graph
        node = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "x")
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        steps[method] = float(constants[node.input[1]])
    assert steps["minmax"] == pytest.approx(11 / 255, rel=0.01)
    assert steps["percentile"] == pytest.approx(2 / 255, rel=0.1)
    assert capsys.readouterr().out == ""
