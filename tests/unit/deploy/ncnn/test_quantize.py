"""Weights in fp16 and int8: what ncnn computes from our files, against torch on rounded numbers."""

import numpy as np
import pytest
import torch
from torch.nn import functional

pytest.importorskip("ncnn")

from fcos_train.deploy.ncnn.graph import Graph, Layer
from fcos_train.deploy.ncnn.quantize import Range, calibrated, halved, noise, quantized, scale_of
from fcos_train.deploy.ncnn.session import Network
from mmcv_overrides.errors import UserError

rng = np.random.default_rng(0)
# name -> inputs of a group, outputs, groups, side of the kernel, stride
CONVOLUTIONS = {
    "plain": (3, 8, 1, 3, 2),
    "depthwise": (1, 8, 8, 3, 1),
    "grouped": (4, 6, 2, 3, 1),
    "pointwise": (6, 5, 1, 1, 1),
}
WEIGHTS = {
    name: (
        (rng.normal(size=(o, i, k, k)) * rng.uniform(0.1, 3, (o, 1, 1, 1))).astype("f4"),
        rng.normal(size=o).astype("f4"),
    )
    for name, (i, o, _, k, _) in CONVOLUTIONS.items()
}
IMAGES = [(rng.normal(size=(3, 12, 16)) * 5).astype("f4") for _ in range(3)]


def chain() -> tuple[Graph, bytes]:
    """The four convolutions in a row, each followed by ReLU."""
    layers, data, blob = [Layer("Input", "in", (), ("image",), {})], b"", "image"
    for name, (_, outputs, groups, side, stride) in CONVOLUTIONS.items():
        weight, bias = WEIGHTS[name]
        settings = {0: outputs, 1: side, 3: stride, 4: side // 2, 5: 1, 6: weight.size, 9: 1}
        if groups > 1:
            settings[7] = groups
        kind = "ConvolutionDepthWise" if groups > 1 else "Convolution"
        layers.append(Layer(kind, name, (blob,), (name,), {key: str(value) for key, value in settings.items()}))
        data += b"\0\0\0\0" + weight.tobytes() + bias.tobytes()
        blob = name
    return Graph(tuple(layers)), data


def opened(folder, graph, data, keep=False) -> Network:
    (folder / "net.param").write_text(graph.text())
    (folder / "net.bin").write_bytes(data)
    return Network(folder / "net.param", folder / "net.bin", keep)


def computed(image, rounded=None, weights=None) -> dict[str, np.ndarray]:
    """The same chain in torch. ``rounded(name, input, weights)`` gives what is used instead."""
    blob, found = torch.from_numpy(image)[None], {}
    for name, (_, _, groups, side, stride) in CONVOLUTIONS.items():
        weight, bias = (torch.from_numpy(array) for array in (weights or WEIGHTS)[name])
        if rounded:
            blob, weight = rounded(name, blob, weight, groups)
        blob = functional.conv2d(blob, weight, bias, stride, side // 2, groups=groups).relu()
        found[name] = blob[0].numpy()
    return found


def largest(images) -> dict[str, float]:
    """Largest absolute value of the input of each convolution."""
    names = list(CONVOLUTIONS)
    inputs = [{"image": image, **computed(image)} for image in images]
    return {blob: max(float(np.abs(one[blob]).max()) for one in inputs) for blob in ("image", *names[:-1])}


def test_the_float_chain_is_what_torch_computes(tmp_path):
    network = opened(tmp_path, *chain())
    found = network.run(IMAGES[0], ["pointwise"])[0]
    expected = computed(IMAGES[0])["pointwise"]
    assert found.shape == expected.shape == (5, 6, 8)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_ranges_are_the_largest_values_over_all_images(tmp_path):
    ranges = calibrated(opened(tmp_path, *chain(), keep=True), IMAGES)
    assert {blob: one.reach for blob, one in ranges.items()} == pytest.approx(largest(IMAGES), rel=1e-5)
    np.testing.assert_allclose(ranges["image"].power, (np.stack(IMAGES) ** 2).mean((0, 2, 3)), rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "power", "expected"),
    [
        ("Convolution", [3.0, 3.0], 1 / 6),  # a step of 1 has the variance 1 / 12
        ("Convolution", [6.0, 0.0], 1 / 6),  # a sum over channels: the strong one counts
        ("ConvolutionDepthWise", [3.0, 3.0], 1 / 6),
        ("ConvolutionDepthWise", [3.0, 0.0], ((1 / 36 + 1) / 2) ** 0.5),  # the weak channel is lost
    ],
)
def test_the_noise_of_rounded_inputs(kind, power, expected):
    assert noise(Layer(kind, "one", ("a",), ("b",), {}), Range(127.0, np.array(power))) == pytest.approx(expected)


def test_convolutions_that_int8_resolves_badly_stay_float32():
    graph, data = chain()
    ranges = {blob: Range(1.0, np.full(8, 0.01)) for blob in graph.blobs}
    ranges["plain"] = Range(1.0, np.array([0.01] * 7 + [1e-9]))  # the input of the depthwise one
    small, stored_, kept = quantized(graph, data, ranges)
    assert kept == ["depthwise"] and "8" not in map(str, small.layers[2].settings)
    assert WEIGHTS["depthwise"][0].tobytes() in stored_ and WEIGHTS["grouped"][0].tobytes() not in stored_


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_ncnn_computes_with_rounded_weights_and_inputs(tmp_path, name):
    """One quantised convolution at a time, so that no rounding hides another."""
    graph, data = chain()
    blob = next(layer.bottoms[0] for layer in graph.layers if layer.name == name)
    reach = largest(IMAGES)[blob]
    one = Graph((Layer("Input", "in", (), (blob,), {}), next(x for x in graph.layers if x.name == name)))
    weight, bias = WEIGHTS[name]
    plain = b"\0\0\0\0" + weight.tobytes() + bias.tobytes()
    small, stored, kept = quantized(one, plain, {blob: Range(reach, np.full(8, reach**2))})
    _, _, split, side, stride = CONVOLUTIONS[name]
    groups = split if split > 1 else len(weight)  # of the scales
    assert kept == [] and len(stored) == 4 + -(-weight.size // 4) * 4 + bias.nbytes + 4 * (groups + 1)
    image = {"image": IMAGES[0], **computed(IMAGES[0])}[blob]
    found = opened(tmp_path, small, stored).run(image, [name])[0]

    rows = weight.reshape(groups, -1)
    step = np.abs(rows).max(1, keepdims=True) / 127
    used = (np.rint(rows / step) * step).reshape(weight.shape)
    inputs = np.clip(np.rint(image / (reach / 127)), -127, 127) * (reach / 127)
    tensors = [torch.from_numpy(array.astype("f4")) for array in (inputs[None], used, bias)]
    expected = functional.conv2d(*tensors, stride, side // 2, groups=split).relu()[0].numpy()
    exact = computed(IMAGES[0])[name]
    # A number halfway between two steps may be rounded either way.
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(exact).max())
    assert np.abs(found - exact).max() > 1e-3 * np.abs(exact).max()  # it is not the float network


def test_the_whole_chain_in_int8_is_near_the_float_one(tmp_path):
    graph, data = chain()
    ranges = calibrated(opened(tmp_path, graph, data, keep=True), IMAGES)
    small, stored, _ = quantized(graph, data, ranges, limit=1)
    assert [layer.settings.get(8) for layer in small.layers[1:]] == ["2", "1", "1", "2"]
    found = opened(tmp_path, small, stored).run(IMAGES[1], ["pointwise"])[0].ravel()
    exact = computed(IMAGES[1])["pointwise"].ravel()
    assert found @ exact / np.linalg.norm(found) / np.linalg.norm(exact) > 0.999


def test_scales_of_numbers_and_of_zeros():
    assert scale_of(np.float32([127, 1, 0])).tolist() == [1, 127, 1]


def test_fp16_weights_are_what_ncnn_computes_with(tmp_path):
    graph, data = chain()
    small, kept = halved(graph, data)
    numbers = sum(weight.size for weight, _ in WEIGHTS.values())
    assert kept == [] and len(data) - len(small) == 2 * numbers
    used = {name: (weight.astype("f2").astype("f4"), bias) for name, (weight, bias) in WEIGHTS.items()}
    expected = computed(IMAGES[0], weights=used)["pointwise"]
    found = opened(tmp_path, graph, small).run(IMAGES[0], ["pointwise"])[0]
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(("factor", "kept"), [(1, []), (1e-6, ["one"]), (1e6, ["one"]), (0, [])])
def test_numbers_that_fp16_cannot_represent_stay_float32(factor, kept):
    """fp16 has less than 11 bits below 6e-5, and nothing above 65504."""
    weights = (rng.uniform(-1, 1, 12) * factor).astype("<f4")
    conv = Layer("Convolution", "one", ("a",), ("b",), {0: "1", 6: "12"})
    small, found = halved(Graph((conv,)), b"\0\0\0\0" + weights.tobytes())
    assert found == kept and len(small) == (52 if kept else 28)


WIDE = Range(1.0, np.ones(8))
FOREIGN = Graph((Layer("Gemm", "g", (), ("x",), {}),))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda graph, data: halved(FOREIGN, b""), "fp16 is not available .* Gemm"),
        (lambda graph, data: quantized(FOREIGN, b"", {}), "int8 is not available .* Gemm"),
        (lambda graph, data: halved(graph, halved(graph, data)[0]), "layer plain: .* not stored as float32"),
        (
            lambda graph, data: quantized(graph, data[:-1], dict.fromkeys(graph.blobs, Range(1.0, np.ones(8)))),
            "truncated",
        ),
    ],
)
def test_networks_that_cannot_be_converted_are_refused(what, message):
    with pytest.raises(UserError, match=message):
        what(*chain())


def test_calibration_refuses_no_image_and_broken_values(tmp_path):
    network = opened(tmp_path, *chain(), keep=True)
    with pytest.raises(UserError, match="no image to calibrate with"):
        calibrated(network, [])
    with pytest.raises(UserError, match="values that are not finite"):
        calibrated(network, [np.full((3, 12, 16), np.inf, "f4")])
