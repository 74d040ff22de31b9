"""Where the arrays of each layer lie in a weight file, and files of another size."""

import numpy as np
import pytest

from fcos_train.deploy.ncnn.graph import Graph, Layer
from fcos_train.deploy.ncnn.weights import float16_array, int8_array, require_whole, stored, unknown_kinds
from mmcv_overrides.errors import UserError

FLOAT32 = b"\0\0\0\0"


def layer(kind, *bottoms, **settings):
    bottoms = bottoms or ("a",)
    return Layer(kind, kind.lower(), bottoms, ("b",), {int(key[1:]): str(value) for key, value in settings.items()})


def float32(count):
    return FLOAT32 + b"\0" * 4 * count


@pytest.mark.parametrize(
    ("one", "arrays"),
    [
        (layer("Convolution", _0=2, _6=6), [28]),  # a mark and six numbers
        (layer("Convolution", _0=2, _5=1, _6=6), [28, 8]),
        (layer("Convolution", _0=2, _5=1, _6=6, _8=2), [28, 8, 8, 4]),  # a scale per output and one of the input
        (layer("Convolution", _0=2, _5=1, _6=6, _8=102), [28, 8, 8, 4, 4]),
        (layer("ConvolutionDepthWise", _0=6, _5=1, _6=6, _7=3, _8=1), [28, 24, 12, 4]),  # a scale per group
        (layer("ConvolutionDepthWise", _0=6, _5=1, _6=6, _7=3, _8=2), [28, 24, 4, 4]),
        (layer("Convolution", "a", "w", _0=2, _6=6, _19=1), []),  # weights from another layer
        (layer("Deconvolution", _0=2, _5=1, _6=6), [28, 8]),
        (layer("InnerProduct", _0=2, _1=1, _2=6), [28, 8]),
        (layer("GroupNorm", _0=2, _1=6), [24, 24]),
        (layer("GroupNorm", _0=2, _1=6, _3=0), []),
        (layer("BatchNorm", _0=3), [12] * 4),
        (layer("Scale", _0=3, _1=1), [12, 12]),
        (layer("PReLU", _0=3), [12]),
        (layer("MemoryData", _0=3, _1=2), [24]),
        (layer("MemoryData", _0=3, _1=2, _21=0), [28]),
        (layer("ReLU"), []),
    ],
)
def test_the_arrays_of_a_layer(one, arrays):
    data = b"\0" * sum(arrays)
    ((found, places),) = stored(Graph((one,)), data, "net.bin")
    assert found is one and [place.stop - place.start for place in places] == arrays


def test_marks_tell_how_numbers_are_stored():
    conv = layer("Convolution", _0=1, _6=5)
    table = b"\x01\x02\x03\x04" + b"\0" * 1024
    for content, size in (
        (int8_array(np.arange(5)), 12),
        (float16_array(np.arange(5)), 16),
        (float32(5), 24),
        (b"\x56\xc0\x02\x00" + b"\0" * 20, 24),
        (table + b"\0" * 8, 1036),
    ):
        ((_, (place,)),) = stored(Graph((conv,)), content, "net.bin")
        assert place == slice(0, size) and len(content) == size
    assert int8_array(np.array([-127, 5]))[4:] == bytes([129, 5, 0, 0])
    assert np.frombuffer(float16_array(np.array([0.5, 2.0]))[4:], "<f2").tolist() == [0.5, 2.0]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (64, None),
        (63, "truncated, or belongs to another graph: 63 bytes, but the weights of layer groupnorm end at byte 64"),
        (30, "weights of layer convolution end at byte 32"),
        (0, "weights of layer convolution end at byte 28"),
        (68, "it has 68 bytes, the layers need 64"),
    ],
)
def test_a_file_of_another_size_is_refused(tmp_path, size, message):
    graph = Graph((layer("Convolution", _0=1, _5=1, _6=6), layer("ReLU"), layer("GroupNorm", _0=2, _1=4)))
    path = tmp_path / "net.bin"
    path.write_bytes(b"\0" * size)
    if message is None:
        require_whole(graph, path)
        return
    with pytest.raises(UserError) as refused:
        require_whole(graph, path)
    assert message in str(refused.value) and "net.bin" in str(refused.value)


def test_counts_below_zero_are_refused():
    with pytest.raises(UserError, match="truncated, or belongs to another graph"):
        list(stored(Graph((layer("Convolution", _0=1, _6=-8),)), float32(4), "net.bin"))


def test_graphs_with_unknown_layers_are_left_to_ncnn(tmp_path):
    graph = Graph((layer("Gemm"), layer("LSTM"), layer("ReLU")))
    assert unknown_kinds(graph) == ["Gemm", "LSTM"]
    (tmp_path / "net.bin").write_bytes(b"12345")
    require_whole(graph, tmp_path / "net.bin")
    with pytest.raises(UserError, match=r"none.bin: there is no such file"):
        require_whole(graph, tmp_path / "none.bin")
