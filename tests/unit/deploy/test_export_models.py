"""Every single-stage model with every end: written, checked and compared with PyTorch on small inputs."""

import json

import numpy as np
import onnx
import pytest
import torch

from tests.support.small_detectors import CLASSES, SHIPPED, small_config, write_checkpoint

onnxruntime = pytest.importorskip("onnxruntime")

from fcos_train.data.shapes import draw_image
from fcos_train.deploy.onnx.export import ExportOptions, export
from fcos_train.deploy.onnx.graphs import build_graph
from fcos_train.deploy.onnx.spec import GraphSpec
from fcos_train.deploy.onnx.verify import beside_mmdet
from fcos_train.deploy.onnx.writing import require_operators, write
from fcos_train.infer.detector import Detector
from mmcv_overrides.errors import UserError

ENDS = ("raw", "decoded", "nms", "ascend")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """name -> checkpoint, each written once."""
    folder, made = tmp_path_factory.mktemp("checkpoints"), {}

    def get(name, static=False, seed=0):
        key = f"{name}{'-static' if static else ''}-{seed}"
        if key not in made:
            made[key] = str(write_checkpoint(folder / f"{key}.pth", small_config(name, static), seed))
        return made[key]

    return get


def _run(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": images})


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", SHIPPED)
def test_each_model_and_end_is_the_same_as_pytorch(name, end, checkpoints, tmp_path):
    lines = []
    path = tmp_path / "model.onnx"
    result = export(ExportOptions(checkpoints(name), end=end, output=str(path), shape=(96, 128)), lines.append)
    assert path.is_file() and result.description.is_file()
    assert result.opset == (11 if end == "ascend" else 19 if name == "fcos-dcn" else 17)
    reason = "for DeformConv, of 15 deformable convolutions" if result.opset == 19 else "the default"
    assert lines[0].endswith(f"opset {result.opset} ({reason})")
    assert all(found.fault is None and found.count > 0 for found in result.differences)
    step = 0.125  # of half precision above 64 px
    assert max(found.largest for found in result.differences) <= (step if end == "ascend" else 1e-3)
    assert sum("largest difference" in line for line in lines) == len(result.differences)
    assert any("compared with mmdet's own prediction" in line for line in lines) is (end == "ascend")
    levels, parts = 5, 3 if name.startswith("fcos") else 2
    assert len(result.differences) == (levels * parts if end == "raw" else 2)


@pytest.mark.parametrize("name", ["fcos-gn", "fsaf"])
def test_fixed_shape_heads_export_as_well(name, checkpoints, tmp_path):
    path = tmp_path / "model.onnx"
    export(ExportOptions(checkpoints(name, static=True), end="nms", output=str(path), shape=(96, 128)), lambda _: None)
    assert json.loads(path.with_suffix(".json").read_text())["head"].startswith("FixedShape")


@pytest.mark.parametrize("end", ["raw", "decoded", "nms"])
@pytest.mark.parametrize("name", ["fcos-gn", "fsaf", "retinanet"])
def test_open_batch_height_and_width(name, end, checkpoints, tmp_path):
    path, lines = tmp_path / "model.onnx", []
    options = ExportOptions(
        checkpoints(name), end=end, output=str(path), shape=(96, 128), dynamic=("batch", "height", "width")
    )
    export(options, lines.append)
    assert "inputs 1x3x96x128, 2x3x64x160" in lines[1]
    first = _run(path, np.random.default_rng(0).normal(size=(3, 3, 128, 96)).astype(np.float32))[0]
    assert first.shape[0] == 3


def test_ascend_with_an_open_batch(checkpoints, tmp_path):
    path = tmp_path / "model.onnx"
    options = ExportOptions(checkpoints("fcos-bn"), end="ascend", output=str(path), shape=(64, 96), dynamic=("batch",))
    export(options, lambda _: None)
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_shapes_and_types_of_the_detections_are_fixed(checkpoints, tmp_path):
    path = tmp_path / "model.onnx"
    export(ExportOptions(checkpoints("fcos-gn"), output=str(path), shape=(96, 128), batch=2), lambda _: None)
    dets, labels = _run(path, np.random.default_rng(0).normal(size=(2, 3, 96, 128)).astype(np.float32))
    assert dets.shape == (2, 100, 5) and dets.dtype == np.float32
    assert labels.shape == (2, 100) and labels.dtype == np.int64
    assert (np.diff(dets[..., 4], axis=1) <= 0).all()
    unused = dets[..., 4] == 0
    assert (dets[unused] == 0).all() and (labels[unused] == 0).all()
    graph = onnx.load(path).graph
    assert [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.output] == [
        [2, 100, 5],
        [2, 100],
    ]


@pytest.mark.parametrize(("opset", "operator"), [(11, "GatherElements"), (17, "GridSample"), (20, "DeformConv")])
def test_deformable_convolution_in_the_opset_that_is_asked_for(opset, operator, checkpoints, tmp_path):
    path, lines = tmp_path / "model.onnx", []
    options = ExportOptions(checkpoints("fcos-dcn"), end="raw", output=str(path), shape=(32, 64), opset=opset)
    assert export(options, lines.append).opset == opset
    assert f"opset {opset} (as asked" in lines[0] and ("older operators" in lines[0]) is (opset < 19)
    kinds = [node.op_type for node in onnx.load(path).graph.node]
    assert operator in kinds and kinds.count("DeformConv") == (15 + 8 if opset >= 19 else 0)


@pytest.mark.parametrize("name", SHIPPED)
def test_ascend_finds_what_mmdet_finds(name, checkpoints):
    """In single precision and with all positions kept it is the same arithmetic; half precision resolves a few
    near-ties differently."""
    images = [draw_image(np.random.default_rng(seed), (128, 96))[0] for seed in range(2)]
    detector = Detector.from_checkpoint(checkpoints(name), None, "cpu")
    for half, share in ((False, 1.0), (True, 0.95)):
        graph = build_graph(detector.model, GraphSpec("ascend", (96, 128), half=half))
        same, own, mmdets = beside_mmdet(graph, images)
        assert mmdets > 50 and abs(own - mmdets) <= (1 - share) * mmdets
        assert same >= share * mmdets


@pytest.mark.parametrize("opset", [11, 13, 20])
def test_the_opset_that_is_asked_for(opset, checkpoints, tmp_path):
    path = tmp_path / "model.onnx"
    options = ExportOptions(checkpoints("fcos-gn"), output=str(path), shape=(64, 96), opset=opset)
    assert export(options, lambda _: None).opset == opset
    assert onnx.load(path).opset_import[0].version == opset


@pytest.mark.parametrize("end", ENDS)
def test_two_exports_are_identical_and_names_do_not_depend_on_weights(end, checkpoints, tmp_path):
    contents, names = [], []
    for number, seed in enumerate((0, 0, 1)):
        path = tmp_path / str(number) / "model.onnx"
        options = ExportOptions(checkpoints("fcos-gn", seed=seed), end=end, output=str(path), shape=(64, 96))
        export(options, lambda _: None)
        contents.append((path.read_bytes(), path.with_suffix(".json").read_bytes()))
        graph = onnx.load(path).graph
        values = [(node.name, node.op_type, tuple(node.input), tuple(node.output)) for node in graph.node]
        names.append((values, [tensor.name for tensor in graph.initializer]))
    assert contents[0] == contents[1]
    assert contents[0][0] != contents[2][0]
    assert names[0] == names[2]
    assert len({name for name, *_ in names[0][0]}) == len(names[0][0])


def test_normalisation_inside_the_graph_gives_the_same_maps(checkpoints, tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 96)).astype(np.float32)
    config = small_config("fsaf").model.data_preprocessor
    paths = [tmp_path / "outside.onnx", tmp_path / "inside.onnx"]
    for path in paths:
        inside = path.stem == "inside"
        options = ExportOptions(
            checkpoints("fsaf"), end="raw", output=str(path), shape=(64, 96), normalize_in_graph=inside
        )
        export(options, lambda _: None)
    mean, std = (np.float32(config[key])[None, :, None, None] for key in ("mean", "std"))
    outside = _run(paths[0], ((image[:, ::-1] - mean) / std).astype(np.float32))
    for mine, other in zip(_run(paths[1], image), outside, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-4)
    described = [json.loads(path.with_suffix(".json").read_text())["input"] for path in paths]
    assert [entry["color_order"] for entry in described] == ["RGB", "BGR"]
    assert [entry["normalize_in_graph"] for entry in described] == [False, True]


def test_what_the_file_says_about_itself(checkpoints, tmp_path):
    path = tmp_path / "model.onnx"
    export(ExportOptions(checkpoints("fcos-gn"), end="raw", output=str(path), shape=(64, 96)), lambda _: None)
    content = json.loads(path.with_suffix(".json").read_text())
    assert content["classes"] == list(CLASSES)
    assert content["mean"] == [102.9801, 115.9465, 122.7717] and content["std"] == [1.0, 1.0, 1.0]
    assert content["bgr_to_rgb"] is False and content["input"]["color_order"] == "BGR"
    assert content["resize"]["scale"] == [1333, 800] and content["resize"]["keep_ratio"] is True
    assert content["resize"]["pad_size_divisor"] == 32
    assert content["strides"] == [8, 16, 32, 64, 128]
    assert content["outputs"][0] == {
        "name": "cls_0",
        "kind": "map",
        "shape": [1, 4, 8, 12],
        "part": "cls",
        "level": 0,
        "stride": 8,
    }
    assert [output["name"] for output in content["outputs"][::5]] == ["cls_0", "box_0", "ctr_0"]
    assert content["test_cfg"]["score_thr"] == 0.05 and content["test_cfg"]["nms_pre"] == 1000
    inside = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(inside["classes"]) == list(CLASSES) and json.loads(inside["decode"]) == content["decode"]
    assert set(inside) == set(content) - {"verified"}
    assert {entry["name"] for entry in content["verified"]} == {output["name"] for output in content["outputs"]}
    assert all(0 <= entry["largest"] < 1e-3 for entry in content["verified"])


def test_layers_without_an_operator_of_onnx_are_named():
    """CARAFE's own operator was written into the graph, and its missing shape ended in a traceback."""
    from mmcv.ops import CARAFEPack, DeformConv2dPack
    from mmcv.ops.merge_cells import SumCell

    known = torch.nn.Sequential(DeformConv2dPack(4, 4, 3), SumCell(4, 4), torch.nn.Conv2d(4, 4, 1))
    require_operators(known)
    with pytest.raises(UserError, match="Sequential cannot be exported: ONNX has no operator for mmcv's CARAFEPack"):
        require_operators(torch.nn.Sequential(known, CARAFEPack(4, 2)))


def test_an_operator_that_cannot_be_written_is_one_line(checkpoints, monkeypatch):
    class Own(torch.autograd.Function):
        """Of a user, for whom torch knows no operator of ONNX."""

        @staticmethod
        def forward(ctx, values):
            return values * 2

        @staticmethod
        def symbolic(g, values):
            return values.type().no_such_thing

    detector = Detector.from_checkpoint(checkpoints("retinanet"))
    graph = build_graph(detector.model, GraphSpec("raw", (64, 64)))
    forward = detector.model.backbone.forward
    monkeypatch.setattr(detector.model.backbone, "forward", lambda images: forward(Own.apply(images)))
    with pytest.raises(UserError, match="RetinaNet cannot be exported: AttributeError: .*no_such_thing.*"):
        write(graph, 17)


def test_upsampling_with_positional_arguments(checkpoints, tmp_path, monkeypatch):
    """HRNet passes `align_corners` as the fifth argument of `interpolate`."""
    detector = Detector.from_checkpoint(checkpoints("retinanet"))
    graph = build_graph(detector.model, GraphSpec("raw", (64, 64)))
    forward = detector.model.backbone.forward
    small = torch.nn.functional.avg_pool2d

    def blurred(images):
        return forward(torch.nn.functional.interpolate(small(images, 2), (64, 64), None, "bilinear", False))

    monkeypatch.setattr(detector.model.backbone, "forward", blurred)
    written = write(graph, 17).graph
    resizes = [node for node in written.node if node.op_type == "Resize"]
    modes = [attribute.s for node in resizes for attribute in node.attribute if attribute.name == "mode"]
    assert modes.count(b"linear") == 1
