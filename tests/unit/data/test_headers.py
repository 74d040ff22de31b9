"""Headers of image files: orientation and depth as OpenCV sees them, files that are no images, and the cache."""

import io
import json
import os
import struct
import time

import cv2
import numpy as np
import pytest

from fcos_train.data import check, make_shapes, resolve
from fcos_train.data.headers import Header, read_header, read_headers
from fcos_train.data.image_tags import is_deep, is_unusual, orientation, what_else
from mmcv_overrides.errors import UserError

Image = pytest.importorskip("PIL.Image")
TURNS = {
    1: lambda m: m,
    2: np.fliplr,
    3: lambda m: np.rot90(m, 2),
    4: np.flipud,
    5: lambda m: m.transpose(1, 0, 2),
    6: lambda m: np.rot90(m, -1),
    7: lambda m: np.rot90(m.transpose(1, 0, 2), 2),
    8: np.rot90,
}


def corner_picture():
    """u8 [40, 60, 3] with one corner lit: each way to turn it looks different."""
    pixels = np.full((40, 60, 3), 60, np.uint8)
    pixels[:10, :20] = 200
    return pixels


def encoded(kind, value, endian="<"):
    exif = Image.Exif()
    exif[274], exif.endian = value, endian
    file = io.BytesIO()
    Image.fromarray(corner_picture()).save(file, kind, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_the_orientation_is_that_by_which_opencv_turns(kind):
    for value in range(1, 9):
        for endian in "<>":
            data = encoded(kind, value, endian)
            seen = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).astype(int)
            turned = TURNS[orientation(data)](corner_picture())
            assert turned.shape == seen.shape and np.abs(turned - seen).mean() < 3, (value, endian)
    assert orientation(encoded("JPEG", 9)) == orientation(encoded("JPEG", 0)) == 1
    assert orientation(data[:30]) == orientation(b"") == 1


def test_the_orientation_of_png_after_the_pixels():
    data = encoded("PNG", 6)
    place = data.index(b"eXIf") - 4
    chunk = data[place : place + struct.unpack_from(">I", data, place)[0] + 12]
    rest, end = data.replace(chunk, b""), len(data) - len(chunk) - 12
    moved = rest[:end] + chunk + rest[end:]
    assert cv2.imdecode(np.frombuffer(moved, np.uint8), cv2.IMREAD_COLOR).shape == (60, 40, 3)
    assert orientation(moved[:60], moved[-100:]) == 6 and orientation(rest) == 1


def test_xmp_does_not_turn_an_image():
    file = io.BytesIO()
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    Image.fromarray(corner_picture()).save(file, "JPEG", xmp=xmp)
    assert cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_COLOR).shape == (40, 60, 3)
    assert orientation(file.getvalue()) == 1


@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm", ".pgm"])
def test_depth(suffix):
    deep = np.full((20, 30) if suffix == ".pgm" else (20, 30, 3), 3000, np.uint16)
    assert is_deep(cv2.imencode(suffix, deep)[1].tobytes())
    assert not is_deep(cv2.imencode(suffix, deep.astype(np.uint8))[1].tobytes())


def test_headers_of_files(tmp_path):
    big = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    for name, options in {
        "a.jpg": {"exif": exif, "quality": 95},
        "late.jpg": {"exif": exif, "icc_profile": b"x" * 200_000},  # the size comes after the first 64 KiB
        "a.png": {"exif": exif},
        "a.tif": {"exif": exif},
        "lzw.tif": {"exif": exif, "compression": "tiff_lzw"},  # its tags are at the end
    }.items():
        Image.fromarray(big).save(tmp_path / name, **options)
        assert read_header(tmp_path / name) == Header(400, 300, 6), name
        assert read_header(tmp_path / name).loaded == (300, 400)
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(whole + b"\0" * 10_000)  # a motion photograph has more after its end
    assert read_header(tmp_path / "b.jpg") == Header(400, 300, 6)
    webp = cv2.imencode(".webp", big)[1].tobytes()
    for name, data in {"c.jpg": whole, "c.png": (tmp_path / "a.png").read_bytes(), "c.webp": webp}.items():
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        assert read_header(tmp_path / name) == f"it is incomplete: it cannot be decoded ({len(data) // 2} bytes)"


def test_kinds_that_opencv_may_not_decode_are_tried(tmp_path):
    whole = encoded("JPEG", 1)
    frame = whole.index(b"\xff\xc0")
    twelve_bits = whole[: frame + 4] + b"\x0c" + whole[frame + 5 :]
    lossless = whole[: frame + 1] + b"\xc3" + whole[frame + 2 :]
    for data in (twelve_bits, lossless):
        (tmp_path / "a.jpg").write_bytes(data)
        assert read_header(tmp_path / "a.jpg").startswith("it is of a kind that OpenCV does not decode: it cannot be")
    Image.fromarray(corner_picture()).save(tmp_path / "a.tif", compression="jpeg")
    assert is_unusual((tmp_path / "a.tif").read_bytes()) and not is_unusual(whole)
    assert read_header(tmp_path / "a.tif") == Header(60, 40)  # decoded after all


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "an empty file"),
        (b"\0\0\0\x24ftypheic\0\0\0\0mif1heic", "a HEIC image; convert it to JPEG or PNG"),
        (b"<!DOCTYPE html><html>404", "an HTML page"),
        (b"\n<svg xmlns='x'/>", "an SVG drawing"),
        (b"<?xml version='1.0'?><annotation/>", "an XML file"),
        (b'{"shapes": []}', "a JSON file"),
        (b"%PDF-1.7", "a PDF file"),
        (b"PK\x03\x04", "an archive"),
        (b"\0\0\0\x20ftypisom", "a video"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS; fetch the file: git lfs pull"),
        (b"\0" * 500, "a file of zeros"),
    ],
)
def test_what_is_not_an_image_is_named(tmp_path, data, what):
    (tmp_path / "a.jpg").write_bytes(data)
    assert read_header(tmp_path / "a.jpg").startswith(f"it cannot be decoded: it is {what}")
    assert what_else(b"hello") is None and read_header(tmp_path / "b.jpg") == "the file is absent"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fcos_train" / "image_headers"


def test_headers_are_read_once(tmp_path, cache, monkeypatch):
    folder = tmp_path / "pictures"
    folder.mkdir()
    names = [f"{number}.png" for number in range(150)]
    for name in names:
        cv2.imwrite(str(folder / name), np.zeros((3, 4), np.uint8))
    (folder / "bad.png").write_bytes(b"x")
    found = read_headers(folder, [*names, "bad.png", "none.png"])
    assert found["7.png"] == Header(4, 3) and found["none.png"] == "the file is absent"
    (file,) = cache.iterdir()
    assert json.loads(file.read_text())["files"].keys() == set(names)  # faults are looked at again

    read = []
    monkeypatch.setattr("fcos_train.data.headers.read_header", lambda path: read.append(path) or Header(1, 1))
    assert read_headers(folder, names) == {name: Header(4, 3) for name in names} and not read
    cv2.imwrite(str(folder / "7.png"), np.zeros((5, 6), np.uint8))
    os.utime(folder / "7.png", ns=(1, 1))
    assert read_headers(folder, names[:9])["7.png"] == Header(1, 1) and read == [str(folder / "7.png")]
    monkeypatch.undo()
    assert read_headers(folder, names)["8.png"] == Header(4, 3)
    for text in ("{", "[]", '{"version": 1, "files": {"1.png": 3}}', '{"version": 1, "files": {"1.png": [1, 2]}}'):
        file.write_text(text)
        assert read_headers(folder, ["1.png"]) == {"1.png": Header(4, 3)}


def test_without_a_place_for_the_cache(tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((3, 4), np.uint8))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert read_headers(tmp_path, ["a.png"]) == {"a.png": Header(4, 3)}
    monkeypatch.setenv("FCOS_MAX_IMAGE_PIXELS", "11")
    assert "more than the limit of 11" in str(read_headers(tmp_path, ["a.png"])["a.png"])
    monkeypatch.setenv("FCOS_MAX_IMAGE_PIXELS", "few")
    with pytest.raises(UserError, match="whole number"):
        read_headers(tmp_path, ["a.png"])


def test_reading_is_quick(tmp_path, cache):
    """Some 0.1 ms of processor time for each file; a generous multiple of it."""
    names = [f"{number}.jpg" for number in range(1000)]
    data = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8))[1].tobytes()
    for name in names:
        (tmp_path / name).write_bytes(data)
    start = time.process_time()
    assert len(read_headers(tmp_path, names)) == 1000
    assert time.process_time() - start < 2


def test_unreadable_images_are_left_out_and_named(tmp_path):
    data = make_shapes(tmp_path / "data", train=6, val=2, size=(64, 48))
    (data / "train2017" / "shapes_000002.jpg").write_bytes(b"\0\0\0\x24ftypheic")
    spec = resolve(data, tmp_path / "cache")
    assert spec.report.counts["train"]["unreadable_images"] == 1 and spec.report.counts["train"]["images"] == 5
    line = "! train: 1 images cannot be read: left out (shapes_000002.jpg: it cannot be decoded: it is a HEIC image"
    assert any(line in shown for shown in spec.report.lines())
    assert spec.report.faults_of("val") == [] and "HEIC" in spec.report.faults_of("train")[0]
    for number in (1, 3, 4):
        (data / "train2017" / f"shapes_{number:06d}.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"only 2 of the 6 images .* 4 cannot be read, e.g. shapes_000001.jpg: it "):
        resolve(data, tmp_path / "cache")
    for split in ("train", "val"):  # a size that the annotations lack comes from the header
        file = data / "annotations" / f"instances_{split}2017.json"
        coco = json.loads(file.read_text())
        coco["images"] = [{k: v for k, v in image.items() if k != "width"} for image in coco["images"]]
        file.write_text(json.dumps(coco))
    (data / "train2017" / "shapes_000001.jpg").write_bytes((data / "train2017" / "shapes_000005.jpg").read_bytes())
    spec = resolve(data, tmp_path / "cache")
    images = json.loads(spec.train.ann_file.read_text())["images"]
    assert {(image["width"], image["height"]) for image in images} == {(64, 48)}
    assert spec.report.counts["train"]["sizes_read"] == 3 == len(images)


def test_splits_are_left_as_they_are(tmp_path):
    data = make_shapes(tmp_path / "data", train=6, val=2, size=(64, 48))
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    spec = resolve(data, tmp_path / "cache")
    assert check(spec.train, spec.val, cache_dir=tmp_path / "cache").splits["train"].ann_file == spec.train.ann_file
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before and not (tmp_path / "cache").exists()
