"""Each operator in onnxruntime, in OpenCV and, where it is installed, in BVLC caffe: the same values."""

from __future__ import annotations

import subprocess
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from fcos_train.deploy.caffe.convert import network_of, write_caffe
from fcos_train.deploy.parts.session import cpu_session
from mmcv_overrides.errors import UserError

PROGRAM = Path(__file__).parents[3] / "support" / "bvlc_caffe.py"
SHAPE = (1, 4, 7, 10)
# Weights that a case may name.
POOL = {
    "w": (6, 4, 3, 3),
    "wg": (8, 2, 3, 1),
    "wd": (4, 1, 3, 3),
    "b": (6,),
    "k": (4, 1, 1),
    "k1": (1, 4, 1, 1),
    "g": (4,),
    "m": (4,),
}
# What the graph computes, from x to y; 7 x 10 makes caffe's rounding up visible.
CASES = {
    "conv": "y = Conv<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>(x, w, b)",
    "conv without bias, dilated": "y = Conv<kernel_shape=[3,3], pads=[2,2,2,2], dilations=[2,2]>(x, w)",
    "conv in groups, unequal sides": "y = Conv<kernel_shape=[3,1], pads=[1,0,1,0], strides=[2,1], group=2>(x, wg)",
    "depthwise conv": "y = Conv<kernel_shape=[3,3], pads=[1,1,1,1], group=4>(x, wd, g)",
    "max pool": "y = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1], strides=[2,2]>(x)",
    "max pool 2 x 2": "y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)",
    "max pool rounded up": "y = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x)",
    "max pool of unequal sides": "y = MaxPool<kernel_shape=[3,2], strides=[2,2]>(x)",
    "average pool": "y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x)",
    "average pool rounded up": "y = AveragePool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(x)",
    "upsample": 'y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x,,f2)',
    "upsample by 2 and 3": 'y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", '
    'nearest_mode="floor">(x,,f23)',
    "clip from 0": "y = Clip(x, zero)",
    "clip from 0 to 1": "y = Clip(x, zero, one)",
    "relu": "y = Relu(x)",
    "leaky relu": "y = LeakyRelu<alpha=0.2>(x)",
    "swish": "s = Sigmoid(x) y = Mul(x, s)",
    "tanh": "y = Tanh(x)",
    "exp of a multiple": "s = Mul(x, half) e = Exp(s) y = Div(e, eight)",
    "constants per channel": "s = Mul(k, x) a = Add(s, k1) y = Sub(a, k)",
    "sums": "r = Relu(x) a = Add(x, r) y = Sub(a, x)",
    "concat": "r = Relu(x) y = Concat<axis=1>(r, x)",
    "constants as nodes": "t = Constant<value_float=2.0>() o = Constant<value = float[1] {0.5}>() "
    "s = Mul(x, t) y = Add(s, o)",
    "batch norm": "y = BatchNormalization<epsilon=0.01>(x, g, m, g, v)",
    "cast and identity": "c = Cast<to=1>(x) i = Identity(c) r = Relu(i) y = Identity(r)",
    "the input itself": "y = Identity(x)",
}
NUMBERS = {
    "zero": np.float32(0),
    "one": np.float32(1),
    "half": np.float32(0.5),
    "eight": np.float32([8]),
    "f2": np.float32([1, 1, 2, 2]),
    "f23": np.float32([1, 1, 2, 3]),
}


def model_of(body: str) -> onnx.ModelProto:
    """A model with random weights from a text of ONNX."""
    text = f'<ir_version: 7, opset_import: ["" : 13]> g (float[{",".join(map(str, SHAPE))}] x) => (float[n] y) '
    model = parser.parse_model(f"{text} {{ {body} }}")
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in POOL.items()}
    weights |= NUMBERS | {"v": rng.random(4, np.float32) + 0.5}
    used = sorted({name for node in model.graph.node for name in node.input} & {*weights})
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(weights[name]), name) for name in used)
    for place, node in enumerate(model.graph.node):
        node.name = f"{'abcd'[place]}/{node.op_type}"
    model.graph.output[0].type.tensor_type.ClearField("shape")
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Each case as files of caffe, with an input and onnxruntime's result."""
    folder = tmp_path_factory.mktemp("networks")
    image = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    expected = {}
    for number, (name, body) in enumerate(CASES.items()):
        model = model_of(body)
        onnx.save(model, folder / f"{number}.onnx")
        write_caffe(folder / f"{number}.onnx", folder / f"{number}.prototxt")
        np.save(folder / f"{number}.npy", image)
        (expected[name],) = cpu_session(model.SerializeToString()).run(None, {"x": image})
    return folder, expected


def test_opencv_computes_the_same(networks):
    folder, expected = networks
    for number, name in enumerate(CASES):
        net = cv2.dnn.readNetFromCaffe(str(folder / f"{number}.prototxt"), str(folder / f"{number}.caffemodel"))
        net.setInput(np.load(folder / f"{number}.npy"), "x")
        found = net.forward("y")
        assert found.shape == expected[name].shape, name
        assert np.abs(found - expected[name]).max() < 1e-5, name


def test_bvlc_caffe_computes_the_same(networks, caffe_python):
    folder, expected = networks
    subprocess.run([caffe_python, str(PROGRAM), str(folder)], check=True, capture_output=True, timeout=300)
    for number, name in enumerate(CASES):
        found = np.load(folder / f"{number}.npz")["y"]
        assert found.shape == expected[name].shape, name
        assert np.abs(found - expected[name]).max() < 1e-5, name


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("y = Elu(x)", "no layer for Elu (a/Elu): it has Add, "),
        ("y = InstanceNormalization(x, g, m)", "train the BN head, configs/fcos/"),
        ('s = Shape(x) y = Resize<mode="nearest">(x,,,s)', "multiples of 32 (128 with BiFPN)"),
        ("y = GlobalAveragePool(x)", "without squeeze-and-excitation"),
        ("y = Conv<kernel_shape=[3,3], pads=[0,0,1,1]>(x, w)", "padding 0 above and 1 below"),
        ("y = Conv<kernel_shape=[3,3], auto_pad=\"SAME_UPPER\">(x, w)", "auto_pad=SAME_UPPER"),
        ("y = MaxPool<kernel_shape=[3,3], dilations=[2,2]>(x)", "dilations=[2, 2]"),
        ("y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)", "an average of padded values"),
        ('y = Resize<mode="linear">(x,,f2)', "linear, half_pixel; only the nearest value"),
        ('y = Resize<mode="nearest">(x,,,size)', "from 7 x 10 to 13 x 20"),
        ("y = Clip(x, one)", "from 1; only from 0"),
        ("y = Div(one, x)", "a constant as its first input"),
        ("r = Relu(x) y = Div(r, x)", "a division of blobs"),
        ("s = GlobalMaxPool(x) y = Mul(x, s)", "GlobalMaxPool (a/GlobalMaxPool)"),
        ("s = MaxPool<kernel_shape=[7,10]>(x) y = Mul(x, s)", "(1, 4, 7, 10) and (1, 4, 1, 1)"),
        ("y = Add(x, row)", "a constant of the shape (10,)"),
    ],
)  # fmt: skip
def test_what_caffe_lacks_is_named(body, said, monkeypatch):
    monkeypatch.setitem(NUMBERS, "size", np.int64([1, 4, 13, 20]))
    monkeypatch.setitem(NUMBERS, "row", np.ones(10, np.float32))
    with pytest.raises(UserError, match="^--target caffe ") as error:
        network_of(model_of(body), "net")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_layers_are_named_after_the_nodes():
    layers = network_of(model_of("a = Relu(x) y = MaxPool<kernel_shape=[3,3], strides=[2,2]>(a)"), "net").layer
    assert [(layer.type, layer.name, list(layer.bottom)) for layer in layers] == [
        ("Input", "x", []),
        ("ReLU", "a/Relu", ["x"]),
        ("Pooling", "y/dense", ["a/Relu"]),
        ("Convolution", "y", ["y/dense"]),
    ]
