"""``--target caffe``: the files, what OpenCV and BVLC caffe compute from them, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from fcos_train.cli.main import main
from fcos_train.deploy.artefact import ExportedDetector, open_artefact
from fcos_train.deploy.caffe.messages import NetParameter
from fcos_train.deploy.parts.description import read_description
from mmcv_overrides.errors import UserError
from tests.support.small_detectors import small_config, write_checkpoint

pytest.importorskip("onnxruntime")
PROGRAM = Path(__file__).parents[3] / "support" / "bvlc_caffe.py"
HEIGHT, WIDTH = 64, 96
PARTS = ("logits", "bbox_reg", "centerness")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """FCOS with BatchNorm in the head and distances in strides, as AdelaiDet's."""
    config = small_config("fcos-bn")
    config.model.bbox_head.update(norm_on_bbox=True, centerness_on_reg=True)
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "m.pth", config)


@pytest.fixture(scope="module")
def artefact(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("artefact") / "m.prototxt"
    sides = [str(HEIGHT), str(WIDTH)]
    assert main(["export", str(checkpoint), "--target", "caffe", "--shape", *sides, "--output-file", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def reference(checkpoint):
    """The maps of the checkpoint for an input, by mmdet's own head: distances divided by the strides."""
    from fcos_train.infer.detector import Detector

    model = Detector.from_checkpoint(checkpoint, device="cpu").model

    def maps(images: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            found = model.bbox_head(model.extract_feat(torch.from_numpy(images)))
        return {
            f"P{level + 3}{part}": tensor.numpy() / (2 ** (level + 3) if part == "bbox_reg" else 1)
            for part, levels in zip(PARTS, found, strict=True)
            for level, tensor in enumerate(levels)
        }

    return maps


def image_of(seed: int) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (1, 3, HEIGHT, WIDTH))
    return (pixels - np.array([103.53, 116.28, 123.675]).reshape(1, 3, 1, 1)).astype(np.float32)


def test_opencv_computes_the_maps_of_the_checkpoint(artefact, reference):
    description = read_description(artefact.with_name("m.prototxt.json"))
    assert description["target"] == "caffe" and description["precision"] == "fp32"
    session = open_artefact(artefact, description)
    assert session.outputs == [f"P{level}{part}" for part in PARTS for level in range(3, 8)]
    images = image_of(0), image_of(1)
    # the second run must not change what the first returned
    for image, found in [(image, session.run(image)) for image in images]:
        expected = reference(image)
        assert {name: blob.shape for name, blob in zip(session.outputs, found, strict=True)} == {
            name: blob.shape for name, blob in expected.items()
        }
        for name, blob in zip(session.outputs, found, strict=True):
            assert np.abs(blob - expected[name]).max() < 1e-4, name


def test_bvlc_caffe_computes_the_maps_of_the_checkpoint(artefact, reference, caffe_python, tmp_path):
    for file in (artefact, artefact.with_suffix(".caffemodel")):
        shutil.copy(file, tmp_path)
    np.save(tmp_path / "m.npy", image_of(0))
    subprocess.run([caffe_python, str(PROGRAM), str(tmp_path)], check=True, capture_output=True, timeout=300)
    found = np.load(tmp_path / "m.npz")
    for name, expected in reference(image_of(0)).items():
        assert np.abs(found[name] - expected).max() < 1e-4, name


def test_an_artefact_detects_like_its_checkpoint(artefact, checkpoint):
    from fcos_train.data.shapes import draw_image
    from fcos_train.deploy.onnx.compare import agreement
    from fcos_train.infer.detector import Detector

    image = draw_image(np.random.default_rng(5), (2 * WIDTH, 2 * HEIGHT))[0]
    found, detector = ExportedDetector(artefact)(image), Detector.from_checkpoint(checkpoint, device="cpu")
    with torch.no_grad():
        batch = torch.from_numpy(ExportedDetector(artefact).rule.prepare(image)[None])
        maps = detector.model.bbox_head(detector.model.extract_feat(batch))
    meta = {"img_shape": (HEIGHT, WIDTH), "scale_factor": (0.5, 0.5)}
    (expected,) = detector.model.bbox_head.predict_by_feat(*maps, batch_img_metas=[meta], rescale=True)
    dets, other = (
        np.concatenate((np.asarray(boxes), np.asarray(scores)[:, None]), 1)
        for boxes, scores in ((found.boxes, found.scores), (expected.bboxes, expected.scores))
    )
    shared, own, torchs = agreement(dets[None], found.labels[None], other[None], expected.labels.numpy()[None], False)
    assert own == torchs > 20 and shared == own


def test_the_files_are_those_of_caffe(artefact):
    """Layers that every caffe knows; the weights of a level are its own."""
    weights = NetParameter.FromString(artefact.with_suffix(".caffemodel").read_bytes())
    kinds = {layer.type for layer in weights.layer}
    assert kinds == {"Convolution", "Deconvolution", "Eltwise", "Input", "Pooling", "ReLU", "Scale"}
    layers = {layer.name: layer for layer in weights.layer}
    assert sum(name.endswith("logits") for name in layers) == 5
    upsampling = next(layer for layer in weights.layer if layer.type == "Deconvolution")
    values = upsampling.convolution_param
    assert (values.num_output, values.group, [*values.kernel_size], [*values.stride]) == (16, 16, [2], [2])
    assert np.frombuffer(upsampling.blobs[0].data, "<f4").tolist() == [1.0] * 64
    text = artefact.read_text()
    assert text.startswith('name: "m"\nlayer {\n  name: "input_image"\n  type: "Input"\n  top: "input_image"\n')
    assert "blobs" not in text and "round_mode" not in text and "ceil_mode" not in text


def _cut(path: Path, part: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])


def _drop_layer(path: Path) -> None:
    """A file that ends after a layer is valid protobuf."""
    weights = NetParameter.FromString(path.read_bytes())
    kept = NetParameter(name=weights.name, layer=weights.layer[:-20])
    path.write_bytes(kept.SerializeToString())


def _other_weights(path: Path) -> None:
    weights = NetParameter.FromString(path.read_bytes())
    layer = next(layer for layer in weights.layer if layer.name == "P3logits")
    layer.blobs[0].shape.dim[0], layer.blobs[0].data = 80, layer.blobs[0].data * 20
    path.write_bytes(weights.SerializeToString())


def _rename(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


DAMAGE = {
    "no weights": (".caffemodel", Path.unlink, "No such file"),
    "weights cut within a layer": (".caffemodel", lambda p: _cut(p, 0.7), "is not a caffemodel, or is cut off"),
    "weights cut after a layer": (".caffemodel", _drop_layer, "lacks the layer"),
    "empty weights": (".caffemodel", lambda p: _cut(p, 0), "lacks the layer backbone/conv1/Conv: it is cut off"),
    "foreign weights": (".caffemodel", lambda p: p.write_bytes(b"GIF89a" * 9), "is not a caffemodel, or is cut off"),
    "weights of another model": (".caffemodel", _other_weights, "the weights of P3logits are not those of m.prototxt"),
    "network cut within a layer": (".prototxt", lambda p: _cut(p, 0.7), "is not a caffe network, or is cut off"),
    "empty network": (".prototxt", lambda p: _cut(p, 0), "has no layer"),
    "no text": (".prototxt", lambda p: p.write_bytes(b"\xff\xfe\x00"), "is not a caffe network, or is cut off"),
    "missing blob": (".prototxt", lambda p: _rename(p, "P5bbox_reg", "other"), "has no blob P5bbox_reg"),
    "another size": (
        ".prototxt",
        lambda p: _rename(p, "dim: 96", "dim: 128"),
        "shapes [(1, 3, 64, 128)], its description says (1, 3, 64, 96)",
    ),
    "no description": (".prototxt.json", Path.unlink, "has no description beside it"),
}


@pytest.mark.parametrize(("suffix", "damage", "said"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_files(artefact, tmp_path, suffix, damage, said):
    for file in artefact.parent.iterdir():
        shutil.copy(file, tmp_path)
    damage(tmp_path / f"m{suffix}")
    with pytest.raises(UserError) as error:
        ExportedDetector(tmp_path / "m.prototxt")
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--precision", "fp16"], "--precision fp16: --target caffe has fp32"),
        (["--output-file", "m.onnx"], "must end in .prototxt"),
        (["--end", "raw"], "--end does not apply to --target caffe"),
        (["--shape", "100", "140"], "must be multiples of 32 px"),
    ],
)
def test_options_that_caffe_does_not_have(arguments, said, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(checkpoint), "--target", "caffe", *arguments]) == 2
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_group_norm_is_refused_before_the_export(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = write_checkpoint(tmp_path / "gn.pth", small_config("fcos-gn"))
    assert main(["export", str(path), "--target", "caffe", "--shape", "64", "96"]) == 2
    out, err = capsys.readouterr()
    assert "no layer for GroupNorm (bbox_head.cls_convs.0.gn and 1 more): train the BN head, configs/fcos/" in err
    assert "opset" not in out and [file.name for file in tmp_path.iterdir()] == ["gn.pth"]


def test_opencv_5_is_told_apart(checkpoint, artefact, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delattr(cv2.dnn, "readNetFromCaffe")
    assert main(["export", str(checkpoint), "--target", "caffe", "--shape", "64", "96"]) == 2
    assert "does not read caffe's files: pip install 'opencv-python-headless<5'" in capsys.readouterr().err
    with pytest.raises(UserError, match="opencv-python-headless<5"):
        ExportedDetector(artefact)


def three_levels(config):
    """P3 to P5, as FCOS-RT."""
    config.model.neck.num_outs = 3
    ranges = ((-1, 64), (64, 128), (128, 1e8))
    config.model.bbox_head.update(strides=[8, 16, 32], regress_ranges=ranges, norm_on_bbox=True)
    return config


@pytest.mark.parametrize(
    ("name", "sides", "levels"),
    [
        ("fcos-bn", (64, 96), 5),
        ("fcos-bn", (64, 96), 3),
        ("retinanet", (64, 96), 5),
        ("fsaf", (64, 96), 5),
        ("fcos-bn", (100, 140), 5),
    ],
)
def test_other_heads_levels_and_sizes(name, sides, levels, tmp_path):
    """Exp, delta and TBLR boxes; sides that are not multiples of 32 are refused with the cure."""
    from mmdet.registry import MODELS
    from mmengine.registry import DefaultScope

    from fcos_train.deploy.caffe.convert import write_caffe
    from fcos_train.deploy.onnx.export import ExportOptions, graph_spec
    from fcos_train.deploy.onnx.graphs import build_graph
    from fcos_train.deploy.onnx.writing import write
    from tests.support.small_detectors import lively

    with DefaultScope.overwrite_default_scope("mmdet"):
        config = small_config(name) if levels == 5 else three_levels(small_config(name))
        model = lively(MODELS.build(config.model))
    graph = build_graph(model, graph_spec(ExportOptions("m.pth", end="adelaidet"), sides))
    path = tmp_path / "m.prototxt"
    (tmp_path / "m.onnx").write_bytes(write(graph, 11).SerializeToString())
    if sides[0] % 32:
        with pytest.raises(UserError, match="multiples of 32"):
            write_caffe(tmp_path / "m.onnx", path)
        assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
        return
    write_caffe(tmp_path / "m.onnx", path)
    net = cv2.dnn.readNetFromCaffe(str(path), str(path.with_suffix(".caffemodel")))
    image, names = image_of(2) / 64, [output.name for output in graph.outputs]
    net.setInput(image, "input_image")
    parts = 3 if name.startswith("fcos") else 2
    assert len(names) == levels * parts and names[levels - 1] == f"P{levels + 2}logits"
    with torch.no_grad():
        expected = graph.reference(torch.from_numpy(image))
    for name, found, tensor in zip(names, net.forward(names), expected, strict=True):
        assert np.abs(found - tensor.numpy()).max() < 1e-4, name


def test_the_description_tells_the_rule_of_the_boxes(artefact):
    content = json.loads(artefact.with_name("m.prototxt.json").read_text())
    assert content["input"]["name"] == "input_image" and content["decode"]["unit"] == "stride"
