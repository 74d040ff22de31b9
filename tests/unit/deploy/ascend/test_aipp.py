"""Pixels for an `.om` that normalises itself, and its AIPP file; expected values are computed here."""

import re
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from fcos_train.cli.main import main
from fcos_train.deploy.ascend.aipp import aipp_text, read_aipp
from fcos_train.deploy.ascend.rules import RULES
from mmcv_overrides.errors import UserError

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper


def fields(text: str) -> dict[str, str]:
    body = re.fullmatch(r"aipp_op \{\n((?:    \w+ : \S+\n)+)\}\n", text)
    return dict(line.split(" : ") for line in body[1].replace("    ", "").splitlines())


def through(text: str, pixels: np.ndarray) -> np.ndarray:
    """`(in - mean - min) * var_reci` by channel, pixels u8 [H, W, 3] -> [3, H, W] in double precision."""
    values = fields(text)
    planes = []
    for c in range(3):
        mean, rest, factor = (float(values[f"{key}_chn_{c}"]) for key in ("mean", "min", "var_reci"))
        planes.append((pixels[:, :, c].astype(np.float64) - mean - rest) * factor)
    return np.stack(planes)


def picture(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


# colour (BGR) of the picture; order of the channels; padding: the mean to the nearest value; where the image lies
@pytest.mark.parametrize(
    "rule,order,padding,box",
    [
        ("fsaf", (2, 1, 0), (124, 116, 104), (0, 0, 60, 40)),
        ("fcos", (0, 1, 2), (103, 116, 123), (10, 0, 70, 40)),
        ("cascade", (2, 1, 0), (124, 116, 104), (10, 0, 70, 40)),
    ],
)
def test_pixels_byte_by_byte(tmp_path, rule, order, padding, box):
    colour = (10, 130, 250)
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in" / "a.jpg"), np.full((20, 30, 3), colour, np.uint8))
    colour = cv2.imread(str(tmp_path / "in" / "a.jpg"))[0, 0].tolist()
    words = ["--image-src-path", tmp_path / "in", "--bin-file-path", tmp_path / "bin", "--model", rule, "--aipp"]
    assert (
        main(["ascend", "preprocess", *map(str, words), "--model-input-height", "40", "--model-input-width", "80"]) == 0
    )
    left, top, right, bottom = box
    want = b""
    for y in range(40):
        for x in range(80):
            inside = left <= x < right and top <= y < bottom
            want += struct.pack("3B", *([colour[c] for c in order] if inside else padding))
    assert (tmp_path / "bin" / "a.bin").read_bytes() == want and len(want) == 40 * 80 * 3


@pytest.mark.parametrize("name", list(RULES))
def test_the_file_does_what_preprocess_left_out(tmp_path, name):
    picture(tmp_path / "in" / "a.jpg", 33, 61)
    words = ["--image-src-path", str(tmp_path / "in"), "--model", name, "--model-input-height", "64"]
    words += ["--model-input-width", "96", "--bin-file-path"]
    assert main(["ascend", "preprocess", *words, str(tmp_path / "floats")]) == 0
    assert main(["ascend", "preprocess", *words, str(tmp_path / "pixels"), "--aipp"]) == 0
    floats = np.frombuffer((tmp_path / "floats" / "a.bin").read_bytes(), "<f4").reshape(3, 64, 96)
    pixels = np.frombuffer((tmp_path / "pixels" / "a.bin").read_bytes(), "u1").reshape(64, 96, 3)
    text = aipp_text(RULES[name].at(64, 96))
    assert (fields(text)["src_image_size_w"], fields(text)["src_image_size_h"]) == ("96", "64")
    found = through(text, pixels)
    padding = (floats == 0).all(axis=0)
    assert 0 < padding.sum() < 64 * 96
    np.testing.assert_allclose(found[:, ~padding], floats[:, ~padding], rtol=0, atol=2e-6 * 255)
    half_a_step = 0.5 / np.array(RULES[name].std)
    assert (np.abs(found[:, padding]) <= half_a_step[:, None] + 1e-6).all()
    # and the product's own reading of the file is the same arithmetic
    (tmp_path / "x.cfg").write_text(text)
    np.testing.assert_allclose(read_aipp(tmp_path / "x.cfg")(pixels[None])[0], found, rtol=0, atol=1e-4)


def identity(path: Path, size=(4, 6)) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["input"], ["same"])],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, (1, 3, *size))],
        [helper.make_tensor_value_info("same", TensorProto.FLOAT, None)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


CFG = """aipp_op {
    aipp_mode: static
    related_input_rank: 0
    input_format : RGB888_U8  # comment
    src_image_size_w : 6
    src_image_size_h : 4
    csc_switch : false
    rbuv_swap_switch : true
    mean_chn_0 : 10
    mean_chn_1 : 20
    mean_chn_2 : 30
    min_chn_0 : 0.5
    var_reci_chn_0 : 0.5
    var_reci_chn_1 : 0.25
    var_reci_chn_2 : 1.0
}
"""


def test_a_model_runs_behind_its_file(tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "a.cfg").write_text(CFG)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "p.bin").write_bytes(bytes([130, 120, 110] * 24))  # swapped: 110, 120, 130
    model = identity(tmp_path / "m.onnx")
    words = [
        "--model",
        model,
        "--input",
        tmp_path / "in",
        "--output",
        tmp_path / "out",
        "--aipp-config",
        tmp_path / "a.cfg",
    ]
    assert main(["ascend", "infer", *map(str, words)]) == 0
    want = b"".join(struct.pack("<f", value) * 24 for value in ((110 - 10.5) * 0.5, (120 - 20) * 0.25, 100.0))
    assert (tmp_path / "out" / "dumpOutput_device0" / "p_1.bin").read_bytes() == want


@pytest.mark.parametrize(
    "old,new,part",
    [
        ("static", "dynamic", "asks for aipp_mode : dynamic, which only CANN does"),
        ("RGB888_U8", "YUV420SP_U8", "input_format : YUV420SP_U8"),
        ("csc_switch : false", "csc_switch : true", "csc_switch : true"),
        ("related_input_rank: 0", "crop : true", "crop : true"),
        ("related_input_rank: 0", "left_padding_size : 8", "left_padding_size : 8"),
        ("src_image_size_w : 6", "src_image_size_w : 8", "is for pictures of 4x8 (H x W)"),
        ("src_image_size_w : 6", "", "is not an AIPP file"),
        ("aipp_op {", "{", "is not an AIPP file"),
        ("mean_chn_0 : 10", "mean_chn_0 : ten", "could not convert string to float: 'ten'"),
    ],
)
def test_files_that_only_cann_reads_are_refused(tmp_path, capsys, old, new, part):
    pytest.importorskip("onnxruntime")
    assert old in CFG
    (tmp_path / "a.cfg").write_text(CFG.replace(old, new))
    (tmp_path / "p.bin").write_bytes(bytes(72))
    words = ["--model", identity(tmp_path / "m.onnx"), "--input", tmp_path / "p.bin", "--output", tmp_path / "out"]
    assert main(["ascend", "infer", *map(str, words), "--aipp-config", str(tmp_path / "a.cfg")]) == 2
    message = capsys.readouterr().err
    assert part in message and "a.cfg" in message and not (tmp_path / "out").exists()


def test_pixels_and_floats_are_not_taken_for_each_other(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    (tmp_path / "p.bin").write_bytes(bytes(72))
    words = [
        "--model",
        str(identity(tmp_path / "m.onnx")),
        "--input",
        str(tmp_path / "p.bin"),
        "--output",
        str(tmp_path / "out"),
    ]
    assert main(["ascend", "infer", *words]) == 2
    message = capsys.readouterr().err
    assert "p.bin has 72 bytes" in message and "takes 288 per image (3 x 4 x 6 float32)" in message
    assert "--aipp-config FILE" in message
    (tmp_path / "a.cfg").write_text(CFG)
    (tmp_path / "p.bin").write_bytes(bytes(288))
    assert main(["ascend", "infer", *words, "--aipp-config", str(tmp_path / "a.cfg")]) == 2
    assert "takes 72 per image (4 x 6 x 3 pixels)" in capsys.readouterr().err
    assert main(["ascend", "infer", *words, "--aipp-config", "absent.cfg"]) == 2
    assert "cannot read the AIPP file absent.cfg" in capsys.readouterr().err
    assert main(["ascend", "infer", "--model", "m.om", *words[2:], "--aipp-config", "a.cfg"]) == 2
    assert "an .om has its AIPP file inside" in capsys.readouterr().err


def test_mean_of_many_digits_survives(tmp_path):
    from dataclasses import replace

    rule = replace(RULES["fsaf"], mean=(0.1234567, 103.939999, 255.0))
    values = fields(aipp_text(rule))
    for c, mean in enumerate(rule.mean):
        assert float(values[f"mean_chn_{c}"]) + float(values[f"min_chn_{c}"]) == pytest.approx(mean, abs=1e-6)
    (tmp_path / "a.cfg").write_text(aipp_text(rule))
    with pytest.raises(UserError, match="cannot read the AIPP file"):
        read_aipp(tmp_path / "b.cfg")
    assert read_aipp(tmp_path / "a.cfg").mean.tolist() == pytest.approx(rule.mean)
