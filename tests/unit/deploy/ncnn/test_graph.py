"""The graph file of ncnn: read, renamed, written again; what its enlargements ask of the input."""

import pytest

from fcos_train.deploy.ncnn.graph import read_graph
from mmcv_overrides.errors import UserError

# A pyramid of two levels: stride 32 enlarged by 2 and added to stride 16.
PYRAMID = """7767517
9 10
Input            in0     0 1 in0
Convolution      stem    1 1 in0 a 0=4 1=3 3=4 4=1 5=1 6=108
Pooling          pool    1 1 a b 0=0 1=2 2=2
ConvolutionDepthWise dw  1 1 b c 0=4 1=3 3=2 4=1 6=36 7=4
Split            twice   1 2 c c0 c1
Convolution      deep    1 1 c0 d 0=4 1=1 3=2 6=16
Interp           up      1 1 d e 0=1 1=2.000000e+00 2=2.000000e+00
BinaryOp         add     2 1 c1 e out0 0=0
ReLU             relu    1 1 out0 out1
"""


def written(tmp_path, text):
    path = tmp_path / "net.param"
    path.write_text(text)
    return path


def test_a_graph_is_read_and_written_again(tmp_path):
    graph = read_graph(written(tmp_path, PYRAMID))
    assert graph.inputs == ["in0"] and len(graph.layers) == 9 and len(graph.blobs) == 10
    dw = graph.layers[3]
    assert (dw.kind, dw.name, dw.bottoms, dw.tops) == ("ConvolutionDepthWise", "dw", ("b",), ("c",))
    assert (dw.count(0), dw.count(7), dw.count(8), dw.count(11, 3), graph.layers[6].number(1)) == (4, 4, 0, 3, 2.0)
    assert [line.split() for line in graph.text().splitlines()] == [line.split() for line in PYRAMID.splitlines()]


def test_blobs_are_renamed_where_they_are_written_and_read(tmp_path):
    graph = read_graph(written(tmp_path, PYRAMID)).renamed({"in0": "input_image", "out0": "P4logits"})
    assert graph.inputs == ["input_image"] and graph.layers[1].bottoms == ("input_image",)
    assert graph.layers[7].tops == graph.layers[8].bottoms == ("P4logits",)
    assert graph.layers[0].name == "in0"  # names of layers are not blobs


@pytest.mark.parametrize(
    ("old", "new", "multiple"),
    [
        ("", "", 32),
        ("Interp           up      1 1 d e 0=1 1=2.000000e+00 2=2.000000e+00", "ReLU up 1 1 d e", 1),
        ("Interp           up      1 1 d e 0=1 1=2.000000e+00 2=2.000000e+00", "Deconvolution up 1 1 d e 1=2 3=2", 32),
        ("1 1 c0 d 0=4 1=1 3=2 6=16", "1 1 c0 d 0=4 1=1 3=2 13=8 6=16", 128),  # the strides of a layer differ
        ("1 1 c0 d 0=4 1=1 3=2 6=16", "1 1 c0 d 0=4 1=1 6=16", 16),
    ],
)
def test_the_sides_are_multiples_of_the_largest_stride_that_is_enlarged(tmp_path, old, new, multiple):
    assert read_graph(written(tmp_path, PYRAMID.replace(old, new) if old else PYRAMID)).side_multiple() == multiple


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "does not begin with 7767517"),
        ("7767518\n", "does not begin with 7767517"),
        ("7767517\n", "by its line 2 it has no layers blobs, in fact 0 layers and 0 blobs"),
        (PYRAMID.replace("9 10", "9 11"), "by its line 2 it has 9 layers and 11 blobs, in fact 9 layers and 10 blobs"),
        ("\n".join(PYRAMID.splitlines()[:-1]), "in fact 8 layers and 9 blobs"),
        (PYRAMID.replace("1 1 a b 0", "1 7 a b 0"), "line 5: not a layer of ncnn: Pooling"),
        (PYRAMID.replace("0=0 1=2 2=2", "0=0 1=2 two=2"), "line 5: not a layer of ncnn"),
        (PYRAMID.replace("1 1 a b", "1 1 z b"), "layer pool reads z, which no layer before it writes"),
    ],
)
def test_another_file_is_refused_and_the_place_named(tmp_path, text, message):
    with pytest.raises(UserError) as refused:
        read_graph(written(tmp_path, text))
    assert message in str(refused.value) and "net.param" in str(refused.value)


def test_a_parameter_that_is_no_number_is_named(tmp_path):
    graph = read_graph(written(tmp_path, PYRAMID.replace("3=4", "3=four")))
    with pytest.raises(UserError, match="layer stem: 3=four is not a number"):
        graph.side_multiple()


def test_an_absent_or_binary_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        read_graph(tmp_path / "none.param")
    (tmp_path / "x.param").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a graph of ncnn"):
        read_graph(tmp_path / "x.param")
