"""`.bin` and `.info` files, byte by byte against the published rules; expected values are computed here."""

import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from fcos_train.cli.main import main
from fcos_train.deploy.ascend.info import read_info
from fcos_train.deploy.ascend.preprocess import preprocess
from fcos_train.deploy.ascend.rules import RULES
from mmcv_overrides.errors import UserError

SCRIPTS = Path(__file__).resolve().parents[4] / "scripts" / "ascend"
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
CAFFE_MEAN = [102.9801, 115.9465, 122.7717]


def plain(path: Path, width: int, height: int, bgr=(10, 130, 250)) -> tuple[int, int, int]:
    """Write an image of one colour and return that colour, BGR, as read back from the JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), bgr, np.uint8))
    image = cv2.imread(str(path))
    assert (image == image[0, 0]).all()
    return tuple(int(v) for v in image[0, 0])


def expected(colour, mean, std, shape, box) -> bytes:
    """Planes of one value inside `box` (left, top, right, bottom) and 0 outside, written with struct."""
    height, width = shape
    left, top, right, bottom = box
    planes = b""
    for value, m, s in zip(colour, mean, std, strict=True):
        inside = struct.pack("<f", (value - m) / s)
        row = b"\0" * 4 * left + inside * (right - left) + b"\0" * 4 * (width - right)
        empty = b"\0" * 4 * width
        planes += empty * top + row * (bottom - top) + empty * (height - bottom)
    return planes


def test_fsaf_bin_cuts_sides_and_lies_top_left(tmp_path):
    # s = min(1216/641, 800/427) = 1.8735..; 641*s = 1200.9 -> 1200, 427*s = 800
    b, g, r = plain(tmp_path / "images" / "000000000139.jpg", 641, 427)
    code = main(
        ["ascend", "preprocess", "--model", "fsaf", "--image_src_path", str(tmp_path / "images")]
        + ["--bin_file_path", str(tmp_path / "bin"), "--model_input_height", "800", "--model_input_width", "1216"]
    )
    data = (tmp_path / "bin" / "000000000139.bin").read_bytes()
    assert code == 0 and len(data) == 11_673_600
    assert data == expected((r, g, b), MEAN, STD, (800, 1216), (0, 0, 1200, 800))


def test_fcos_bin_is_bgr_without_std_and_centred(tmp_path):
    # s = min(1333/500, 800/375) = 2.1333; 1066.67 -> 1066 x 800; left = (1333-1066)//2 = 133
    colour = plain(tmp_path / "images" / "a.v1.jpg", 500, 375)
    preprocess(tmp_path / "images", tmp_path / "bin", RULES["fcos"])
    data = (tmp_path / "bin" / "a.bin").read_bytes()
    assert len(data) == 12_796_800
    assert data == expected(colour, CAFFE_MEAN, [1, 1, 1], (800, 1333), (133, 0, 1199, 800))


def test_cascade_bin_rounds_and_is_centred(tmp_path):
    # s = 1216/640 = 1.9; 427*1.9 = 811.3 + .5 -> 811; top = (1216-811)//2 = 202.  481*1.9 = 913.9 + .5 -> 914
    b, g, r = plain(tmp_path / "in" / "x.JPEG", 640, 427)
    plain(tmp_path / "in" / "y.jpeg", 640, 481)
    plain(tmp_path / "in" / "z.png", 640, 427)
    preprocess(tmp_path / "in", tmp_path / "out", RULES["cascade"])
    data = (tmp_path / "out" / "x.bin").read_bytes()
    assert len(data) == 17_743_872
    assert data == expected((r, g, b), MEAN, STD, (1216, 1216), (0, 202, 1216, 1013))
    rows = np.frombuffer((tmp_path / "out" / "y.bin").read_bytes(), "<f4").reshape(3, 1216, 1216)[0].any(axis=1)
    assert rows.sum() == 914 and rows.argmax() == 151
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["x.bin", "y.bin"]  # .jpg, .jpeg and .JPEG only


def test_textured_image_matches_plain_arithmetic(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    found = RULES["fsaf"].at(64, 96).prepare(image)
    small = cv2.resize(image, (96, 64), interpolation=cv2.INTER_LINEAR).astype(np.float64)
    want = ((small[:, :, ::-1] - MEAN) / STD).transpose(2, 0, 1).astype(np.float32)
    assert found.dtype == np.dtype("<f4") and found.tobytes() == want.tobytes()


@pytest.mark.parametrize("size", [(480, 640), (427, 641), (500, 333), (31, 1200)])
def test_prepared_input_is_that_of_mmcv(size):
    """mmcv's own steps, which the published tools call; they normalise in float32."""
    import mmcv

    image = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    rule, (h, w) = RULES["fsaf"], size
    scale = min(1216 / w, 800 / h)
    small = mmcv.imresize(image, (int(np.floor(w * scale)), int(np.floor(h * scale))))
    flat = mmcv.imnormalize(small, np.float32(MEAN), np.float32(STD), to_rgb=True)
    want = mmcv.impad(flat, shape=(800, 1216), pad_val=0).transpose(2, 0, 1)
    np.testing.assert_allclose(rule.prepare(image), want, rtol=0, atol=1e-6)
    small = mmcv.imrescale(image, (1216, 1216))
    flat = mmcv.imnormalize(small, np.float32(MEAN), np.float32(STD), to_rgb=True)
    left, top = (1216 - small.shape[1]) // 2, (1216 - small.shape[0]) // 2
    padding = (left, top, 1216 - small.shape[1] - left, 1216 - small.shape[0] - top)
    want = mmcv.impad(flat, padding=padding, pad_val=0).transpose(2, 0, 1)
    np.testing.assert_allclose(RULES["cascade"].prepare(image), want, rtol=0, atol=1e-6)


def test_corrupt_image_is_named_and_the_others_are_written(tmp_path, capsys):
    plain(tmp_path / "images" / "good.jpg", 30, 20)
    (tmp_path / "images" / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "torn.bin").write_bytes(b"finished earlier")
    code = main(
        ["ascend", "preprocess", "--image-src-path", str(tmp_path / "images"), "--bin-file-path", str(tmp_path / "bin")]
        + ["--model-input-height", "32", "--model-input-width", "32"]
    )
    message = capsys.readouterr().err
    assert code == 2 and "torn.jpg" in message and "1 of 2 images cannot be decoded" in message
    assert (tmp_path / "bin" / "good.bin").stat().st_size == 3 * 32 * 32 * 4
    assert (tmp_path / "bin" / "torn.bin").read_bytes() == b"finished earlier"
    assert len(list((tmp_path / "bin").iterdir())) == 2


def test_images_that_cannot_be_prepared_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no images"):
        preprocess(tmp_path / "empty", tmp_path / "bin", RULES["fsaf"])
    with pytest.raises(UserError, match="absent: no such folder"):
        preprocess(tmp_path / "absent", tmp_path / "bin", RULES["fsaf"])
    plain(tmp_path / "two" / "a.jpg", 8, 8)
    plain(tmp_path / "two" / "a.b.jpg", 8, 8)
    with pytest.raises(UserError, match="would both be named a.bin"):
        preprocess(tmp_path / "two", tmp_path / "bin", RULES["fsaf"])
    assert not (tmp_path / "bin").exists()


def test_info_of_bins_is_width_first_from_zero(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("bins").mkdir()
    for name in ("b.bin", "a.bin", "c.txt"):
        Path("bins", name).write_bytes(b"")
    assert main(["ascend", "info", "bin", "./bins", "coco.info", "1216", "800"]) == 0
    assert Path("coco.info").read_bytes() == b"0 ./bins/a.bin 1216 800\n1 ./bins/b.bin 1216 800\n"
    flags = ["--file_type", "bin", "--file_path", "bins/", "--info_name", "long.info", "--width", "7", "--height", "9"]
    assert main(["ascend", "info", *flags]) == 0
    assert Path("long.info").read_bytes() == b"0 bins/a.bin 7 9\n1 bins/b.bin 7 9\n"


def test_info_of_images_has_real_sizes_and_restarts_with_each_suffix(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, width in (("d.JPG", 11), ("c.jpg", 12), ("a b.jpg", 13), ("e.JPEG", 14), ("b.jpeg", 15), ("f.png", 16)):
        plain(Path("images", name), width, 9)
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "get_info.py"), "jpg", "images", "jpg.info"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = ["0 images/a b.jpg 13 9", "1 images/c.jpg 12 9", "0 images/b.jpeg 15 9", "0 images/d.JPG 11 9"]
    assert Path("jpg.info").read_text() == "\n".join([*lines, "0 images/e.JPEG 14 9"]) + "\n"
    assert [(row.path, row.width) for row in read_info("jpg.info")][:2] == [
        ("images/a b.jpg", 13),
        ("images/c.jpg", 12),
    ]


@pytest.mark.parametrize(
    "words", [["bin", "x", "y"], ["bin", "x", "y", "1", "2", "3"], ["jpg", "x"], ["png", "x", "y"], []]
)
def test_info_with_wrong_words_says_what_to_write(words, capsys):
    assert main(["ascend", "info", *words]) == 2
    assert "info bin DIR OUT WIDTH HEIGHT" in capsys.readouterr().err


def test_corrupt_image_leaves_the_old_info_file(tmp_path, capsys):
    (tmp_path / "torn.jpg").write_bytes(b"no picture")
    (tmp_path / "old.info").write_text("old")
    assert main(["ascend", "info", "jpg", str(tmp_path), str(tmp_path / "old.info")]) == 2
    assert "torn.jpg" in capsys.readouterr().err and (tmp_path / "old.info").read_text() == "old"


@pytest.mark.parametrize("text", ["0 a.bin 5\n", "x a.bin 5 5\n", "0 a.bin 5 y\n", "0 a.bin 0 5\n", "", "a.bin\n"])
def test_unsound_info_is_named(tmp_path, text):
    (tmp_path / "x.info").write_text(text)
    with pytest.raises(UserError, match="x.info"):
        read_info(tmp_path / "x.info")


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("[!_]*.py")), ids=lambda path: path.name)
def test_scripts_run_from_anywhere(tmp_path, script):
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("usage: fcos-train ascend"), done.stderr
