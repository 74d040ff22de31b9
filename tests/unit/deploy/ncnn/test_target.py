"""``fcos-train export --target ncnn``: the files, their maps against PyTorch, and bad input."""

import json
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

for _name in ("onnxruntime", "pnnx", "ncnn"):
    pytest.importorskip(_name)

from fcos_train.cli.main import main
from fcos_train.deploy.ncnn import pnnx
from fcos_train.deploy.ncnn.graph import Graph, read_graph
from fcos_train.deploy.ncnn.pnnx import converted
from fcos_train.deploy.ncnn.quantize import calibrated, quantized
from fcos_train.deploy.ncnn.session import NcnnSession, Network
from fcos_train.deploy.parts.description import rule_of
from fcos_train.deploy.targets import named_by, target_of
from fcos_train.infer.detector import Detector
from mmcv_overrides.errors import UserError
from tests.support.small_detectors import small_config, write_checkpoint
from tests.unit.deploy.ncnn.conftest import export

LEVELS = range(3, 8)
NAMES = [f"P{level}{part}" for part in ("logits", "bbox_reg", "centerness") for level in LEVELS]


def description(network) -> dict:
    return json.loads(Path(f"{network.param}.json").read_text())


def kinds(param: Path) -> dict[str, int]:
    found = [layer.kind for layer in read_graph(param).layers]
    return {kind: found.count(kind) for kind in found}


def in_torch(checkpoint: Path, image: np.ndarray) -> list[np.ndarray]:
    """The maps of FCOS with norm_on_bbox, distances in strides, from mmdet's head itself."""
    model = Detector.from_checkpoint(str(checkpoint), device="cpu").model
    with torch.no_grad():
        logits, distances, centerness = model.bbox_head(model.extract_feat(torch.from_numpy(image)))
    # In evaluation the head has multiplied the distances by the stride.
    strides = [side / 2**level for side, level in zip(distances, LEVELS, strict=True)]
    return [level.numpy() for part in (logits, strides, centerness) for level in part]


def test_an_export_is_two_files_with_the_names_of_adelaidet(network):
    folder = network.param.parent
    assert sorted(file.name for file in folder.iterdir() if file.name != "small.pth") == [
        "net_fp32.bin",
        "net_fp32.param",
        "net_fp32.param.json",
    ]
    graph, content = read_graph(network.param), description(network)
    assert graph.inputs == ["input_image"] and graph.blobs.issuperset(NAMES)
    assert not {blob for blob in graph.blobs if blob.startswith(("in", "out"))} - {"input_image"}
    assert (content["target"], content["precision"], content["end"]) == ("ncnn", "fp32", "adelaidet")
    assert [output["name"] for output in content["outputs"]] == NAMES
    assert named_by(network.param) == "ncnn"


@pytest.mark.parametrize("size", [(96, 128), (160, 64), (32, 32)])
def test_every_map_is_pytorchs_at_any_multiple_of_32(network, size):
    image = np.random.default_rng(0).normal(0, 50, (1, 3, *size)).astype("f4")
    session = NcnnSession(network.param, description(network))
    assert session.outputs == NAMES and session.input_name == "input_image"
    for name, ours, theirs in zip(NAMES, session.run(image), in_torch(network.checkpoint, image), strict=True):
        assert ours.shape == theirs.shape, name
        assert np.abs(ours - theirs).max() <= 1e-3, name


def test_int8_and_fp16_of_batch_normalised_fcos(tmp_path, shapes):
    checkpoint = write_checkpoint(tmp_path / "bn.pth", small_config("fcos-bn"))
    image = np.random.default_rng(0).normal(0, 50, (1, 3, 96, 128)).astype("f4")
    sizes, maps = {}, {}
    for precision in ("fp32", "fp16", "int8"):
        found = export(checkpoint, precision, shapes if precision == "int8" else None, tmp_path)
        session = NcnnSession(found.param, description(found))
        sizes[precision], maps[precision] = found.weights.stat().st_size, session.run(image)
    counts = kinds(tmp_path / "net_int8.param")
    assert counts["Convolution"] == 53 and "GroupNorm" not in counts
    assert sum("8=2" in line.split() for line in (tmp_path / "net_int8.param").read_text().splitlines()) == 53
    assert sizes["fp16"] < 0.6 * sizes["fp32"] and sizes["int8"] < 0.3 * sizes["fp32"]
    for exact, half, small in zip(*maps.values(), strict=True):
        assert 0 < np.abs(half - exact).max() < 0.05
        assert np.abs(small - exact).max() > 0
        assert (small * exact).sum() / np.linalg.norm(small) / np.linalg.norm(exact) > 0.98


def test_depthwise_convolutions_in_int8(tmp_path, shapes):
    """MobileNetV2, whose 17 depthwise convolutions have a scale per group.

    Random weights give channels of very different ranges, which one scale of the input resolves badly: the result is
    compared loosely here, and exactly for single layers in test_quantize.py.
    """
    config = small_config("fcos-centre")
    config.model.backbone = dict(type="MobileNetV2", widen_factor=0.25, out_indices=(2, 4, 6))
    config.model.neck.update(in_channels=[8, 24, 80], start_level=0)
    found = export(write_checkpoint(tmp_path / "mobile.pth", config, seed=1), "fp32", None, tmp_path)
    session = NcnnSession(found.param, description(found))
    rule = rule_of(description(found))
    images = [rule.prepare(cv2.imread(str(path))) for path in sorted((shapes / "train2017").iterdir())[:4]]
    graph, data, _ = quantized(
        session.network.graph,
        found.weights.read_bytes(),
        calibrated(Network(found.param, found.weights, keep=True), images),
        limit=1,
    )
    small = tmp_path / "int8.param"
    small.write_text(graph.text())
    small.with_suffix(".bin").write_bytes(data)
    grouped = [layer for layer in graph.layers if layer.kind == "ConvolutionDepthWise"]
    assert len(grouped) == 17 and all(layer.settings[8] == "1" for layer in grouped)
    exact, rounded = (net.run(images[0][None])[0].ravel() for net in (session, NcnnSession(small, description(found))))
    assert 0.9 < exact @ rounded / np.linalg.norm(exact) / np.linalg.norm(rounded) < 1 - 1e-6


def test_anchors_are_named_alike_without_centerness(tmp_path):
    found = export(write_checkpoint(tmp_path / "r.pth", small_config("retinanet")), "fp32", None, tmp_path)
    names = [output["name"] for output in description(found)["outputs"]]
    assert names == NAMES[:10] and read_graph(found.param).blobs.issuperset(names)


def _without_bin(param):
    param.with_suffix(".bin").unlink()


def _cut(param, end):
    path = param.with_suffix(".bin")
    path.write_bytes(path.read_bytes()[:end])


def _longer(param):
    path = param.with_suffix(".bin")
    path.write_bytes(path.read_bytes() + b"1234")


def _rewritten(param, old, new):
    text = param.read_text()
    assert old in text
    param.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_bin, "net.bin: there is no such file; it holds the weights of the .param file"),
        (partial(_cut, end=-4), "net.bin is truncated, or belongs to another graph"),
        (partial(_cut, end=1000), "net.bin is truncated"),
        (partial(_cut, end=0), "net.bin is truncated"),
        (_longer, "net.bin belongs to another graph"),
        (partial(_rewritten, old="P5centerness", new="P5centre"), "net.param has no blob P5centerness"),
        (partial(_rewritten, old="7767517", new="7767516"), "net.param is not a text graph of ncnn"),
        (partial(_rewritten, old="ReLU ", new="ReLX "), "ncnn has no layer ReLX, which net.param asks for"),
        (lambda param: param.unlink(), "net.param: there is no such file"),
    ],
)
def test_damaged_files_are_refused_with_one_message(network, tmp_path, damage, message):
    param = tmp_path / "net.param"
    param.write_bytes(network.param.read_bytes())
    param.with_suffix(".bin").write_bytes(network.weights.read_bytes())
    damage(param)
    with pytest.raises(UserError) as refused:
        NcnnSession(param, description(network))
    assert message in str(refused.value)


def test_return_codes_of_a_run_are_checked(network):
    session = NcnnSession(network.param, description(network))
    with pytest.raises(UserError, match="has no blob P9logits"):
        session.network.run(np.zeros((3, 32, 32), "f4"), ["P9logits"])
    session.network.input = "none"
    with pytest.raises(UserError, match=r"ncnn could not take blob none \(code -1"):
        session.network.run(np.zeros((3, 32, 32), "f4"), ["P3logits"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shape", "100", "128"], "the sides must be multiples of 32 px"),
        (["--precision", "int8"], "int8 needs images to measure the ranges of activations: give --data-path DIR"),
        (["--precision", "int8", "--data-path", "{empty}"], "the folder is empty; calibration needs images"),
        (["--precision", "int8", "--data-path", "{broken}"], "cannot read image {broken}/a.jpg"),
        (["--output-file", "net.onnx"], ".param"),
        (["--end", "raw"], "--end does not apply to --target ncnn"),
        (["--batch", "2"], "--batch does not apply to --target ncnn"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(network, tmp_path, monkeypatch, capsys, words, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fcos_train.deploy.convert.write_verified", _exported_before(network))
    words = [word.format(empty=tmp_path / "empty", broken=tmp_path / "broken") for word in words]
    shape = [] if "--shape" in words else ["--shape", "96", "128"]
    assert main(["export", str(network.checkpoint), "--target", "ncnn", *shape, *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    assert message.format(broken=tmp_path / "broken") in lines[0]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["broken", "empty"]


def _exported_before(network):
    """Stands for the export to ONNX, which these cases do not reach or do not need."""

    class Exported:
        path = network.param
        description = Path(f"{network.param}.json")

    def write_verified(*_):
        return Exported

    return write_verified


def test_what_pnnx_cannot_read_is_reported_with_its_words(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="pnnx failed"):
        converted(tmp_path / "m.onnx", (1, 3, 32, 32))
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_operators_that_ncnn_does_not_have_are_named(tmp_path, monkeypatch):
    """A program in the place of pnnx that leaves an operator of ONNX in the graph."""
    script = tmp_path / "pnnx"
    text = Graph(()).text().replace("0 0", "2 2") + "Input in0 0 1 in0\\nDeformConv f 1 1 in0 out0\\n"
    script.write_text(
        f"#!{sys.executable}\nopen('model.ncnn.param', 'w').write({text!r}.replace('\\\\n', '\\n'))\n"
        "open('model.ncnn.bin', 'w').close()\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(pnnx, "executable", lambda: str(script))
    (tmp_path / "m.onnx").write_bytes(b"any")
    with pytest.raises(UserError, match="ncnn has no layer for DeformConv"):
        converted(tmp_path / "m.onnx", (1, 3, 32, 32))


def test_missing_tools_are_named_with_the_line_that_installs_them(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UserError, match=r"--target ncnn needs pnnx and ncnn: pip install 'fcos-train\[ncnn\]'"):
        target_of("ncnn").require()
    with pytest.raises(UserError, match="needs the program pnnx: pip install pnnx"):
        pnnx.executable()
