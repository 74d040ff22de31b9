"""Convolutions that share their weights get copies, with which the graph computes what it did."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import numpy_helper

from fcos_train.deploy.rdk.own_weights import give_own_weights


def _two_levels_of_one_head():
    """Level l: scale_l * (W x_l + b), where the second reads the bias through an Identity."""
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    tensors = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1), "b": np.array([1, 2], np.float32),
        "s0": np.float32(0.5), "s1": np.float32(0.25),
    }  # fmt: skip
    nodes = [node("Identity", ["b"], ["b1"])]
    for level, bias in enumerate(("b", "b1")):
        nodes.append(node("Conv", [f"x{level}", "w", bias], [f"c{level}"], name=f"conv{level}"))
        nodes.append(node("Mul", [f"c{level}", f"s{level}"], [f"y{level}"]))
    graph = onnx.helper.make_graph(
        nodes,
        "head",
        [info(f"x{level}", onnx.TensorProto.FLOAT, (1, 3, 2, 2)) for level in (0, 1)],
        [info(f"y{level}", onnx.TensorProto.FLOAT, (1, 2, 2, 2)) for level in (0, 1)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 11)], ir_version=7)


def test_shared_weights_and_biases_are_copied():
    model = _two_levels_of_one_head()
    feed = {f"x{level}": np.full((1, 3, 2, 2), level + 1, np.float32) for level in (0, 1)}
    before = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)
    give_own_weights(model.graph)
    onnx.checker.check_model(model)
    read = [name for node in model.graph.node if node.op_type == "Conv" for name in node.input[1:]]
    assert read == ["w", "b", "c1.weight", "c1.bias"]
    assert [node.op_type for node in model.graph.node] == ["Conv", "Mul", "Conv", "Mul"]
    after = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)
    # W x: 0 + 1 + 2 and 3 + 4 + 5 times x; x is 1 and 2
    assert [value[0, :, 0, 0].tolist() for value in before] == [[2.0, 7.0], [1.75, 6.5]]
    assert [value[0, :, 0, 0].tolist() for value in after] == [[2.0, 7.0], [1.75, 6.5]]
