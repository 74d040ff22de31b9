"""Files that are no files, and images that are too large: every reader refuses them, unopened and undecoded."""

import io
import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from fcos_train.data.image_header import header_size
from fcos_train.data.images import MAX_PIXELS, read_image
from mmcv_overrides.errors import UserError
from mmcv_overrides.regular_files import read_json, read_regular
from tests.support.commands import ROOT, environment

pytestmark = pytest.mark.hostile

READERS = (
    "read_image", "read_header", "training", "training, local backend", "demo", "demo, folder", "preprocess", "info",
    "annotations", "annotations of the metric", "ids", "results", "description", "AIPP", "info file", "VOC list",
    "texts", "dumps", "demo, config of the checkpoint", "export, config of the checkpoint",
)  # fmt: skip
# Those that look for something readable and go on without it.
LOOKS = {
    "demo, config of the checkpoint": "returned []",
    "export, config of the checkpoint": "returned []",
}
KINDS = {"device": "a device", "pipe": "a named pipe", "socket": "a socket", "folder": "a folder"}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Kind of file -> reader -> its answer, from one process with 3 GiB of memory and 20 s for each reader."""
    if not hasattr(os, "mkfifo") or not os.path.exists("/dev/zero"):
        pytest.skip("needs named pipes and /dev/zero, which this system has not")
    script = ROOT / "tests" / "support" / "special_files.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path_factory.mktemp("special")],
        env=environment(), capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_refused_unopened(answers, kind, reader):
    if (kind, reader) == ("folder", "demo"):
        assert reader not in answers[kind]  # a folder is what the demo takes
        return
    found = answers[kind][reader]
    if reader in LOOKS:
        assert found == LOOKS[reader]
    elif reader == "read_header":
        assert found.startswith(f"returned {('it is ' + KINDS[kind] + ', not ')!r}"[:-1])
    elif reader == "demo, folder":
        assert found.startswith("UserError: the folder ") and "holds no image" in found
    elif (kind, reader) == ("folder", "dumps"):
        assert found.startswith("UserError: ") and "expected 20 bytes per box" in found
    else:
        assert found.startswith("UserError: ") and f"it is {KINDS[kind]}, not " in found


@pytest.mark.parametrize("reader", ["read_image", "training", "demo", "demo, folder", "preprocess", "info"])
def test_a_decompression_bomb_is_refused_undecoded(answers, reader):
    found = answers["bomb"][reader]
    assert found.startswith("UserError: ") and "Error: " not in found.removeprefix("UserError: ")
    assert "its 30000 x 30000 pixels are more than the limit of 178,956,970" in found
    assert "FCOS_MAX_IMAGE_PIXELS=900000000" in found
    assert "its 30000 x 30000 pixels are more than the limit" in answers["bomb"]["read_header"]


def test_the_limit_of_pixels(tmp_path, monkeypatch):
    assert MAX_PIXELS == 178_956_970
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), np.zeros((10, 11, 3), np.uint8))
    monkeypatch.setenv("FCOS_MAX_IMAGE_PIXELS", "110")
    assert read_image(path).shape == (10, 11, 3)
    monkeypatch.setenv("FCOS_MAX_IMAGE_PIXELS", "109")
    with pytest.raises(UserError, match=r"a.png: its 11 x 10 pixels are more than the limit of 109.*=110$"):
        read_image(path)
    for wrong in ("0", "-1", "many", ""):
        monkeypatch.setenv("FCOS_MAX_IMAGE_PIXELS", wrong)
        with pytest.raises(UserError, match="^FCOS_MAX_IMAGE_PIXELS=.*: give a whole number of pixels above 0$"):
            read_image(path)


def encoded(suffix: str, *flags: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (37, 53, 3), dtype=np.uint8)
    pixels = pixels.astype(np.float32) if suffix == ".pfm" else pixels
    pixels = pixels[:, :, 0] if suffix in (".pgm", ".pbm") else pixels
    return cv2.imencode(suffix, pixels, list(flags))[1].tobytes()


@pytest.mark.parametrize(
    ("suffix", "flags"),
    [
        *((f".{name}", ()) for name in ["jpg", "png", "bmp", "webp", "tif", "gif", "ppm", "pgm", "pbm", "pam",
                                           "pfm", "jp2", "avif"]),
        (".jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
        (".webp", (cv2.IMWRITE_WEBP_QUALITY, 101)),  # lossless
    ],
)  # fmt: skip
def test_the_header_says_the_size_that_is_decoded(suffix, flags):
    try:
        data = encoded(suffix, *flags)
    except cv2.error:
        pytest.skip(f"this OpenCV does not write {suffix}")
    assert header_size(data) == (53, 37)
    assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape[:2] == (37, 53)
    for length in range(0, 64, 3):  # cut short: no size, or the right one, never an exception
        assert header_size(data[:length]) in (None, (53, 37))


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"big_tiff": True}),
        ("WEBP", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}),  # the extended form
        ("JPEG", {"icc_profile": b"x" * 200_000}),  # several segments before the frame
        ("JPEG2000", {"no_jp2": True}),  # the bare code stream
        ("GIF", {}),
        ("BMP", {}),
    ],
)
def test_the_header_of_other_writers(kind, options):
    image = pytest.importorskip("PIL.Image")
    file = io.BytesIO()
    image.new("RGB", (53, 37)).save(file, kind, **options)
    assert header_size(file.getvalue()) == (53, 37)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"text", b"\x89PNG\r\n\x1a\n\0\0\0\rCgBI" + b"\0" * 30, b"\xff\xd8\xff\xda" + b"\0" * 30,
        b"\xff\xd8" + b"\xff" * 50, b"P6" + b" #" * 40_000, b"II*\0\xff\xff\xff\xff",
        b"RIFF\0\0\0\0WEBPVP8?" + b"\0" * 30,
        b"#?RADIANCE\n", b"\x76\x2f\x31\x01", b"\x59\xa6\x6a\x95",  # Radiance HDR, OpenEXR, Sun raster: not read at all
    ],
)  # fmt: skip
def test_no_size_without_a_sound_header(data):
    assert header_size(data) is None


def test_decoys_do_not_hide_the_size():
    jp2 = encoded(".jp2")
    decoy = b"\0\0\0\x20uuid" + b"\xff\x4f\xff\x51" + b"\0" * 4 + b"\0\0\0\1" * 2
    assert header_size(jp2[:12] + decoy + jp2[12:]) == (53, 37)
    pam = encoded(".pam")
    assert header_size(pam + b"\nWIDTH 1\nHEIGHT 1\n") == (53, 37)
    # A tile is decoded as a whole, however small the image is.
    entries = [(256, 3, 1, 8), (257, 3, 1, 8), (322, 4, 1, 60_000), (323, 4, 1, 60_000)]
    tiff = b"II*\0\x08\0\0\0\x04\0" + b"".join(
        a.to_bytes(2, "little") + b.to_bytes(2, "little") + c.to_bytes(4, "little") + d.to_bytes(4, "little")
        for a, b, c, d in entries
    )
    assert header_size(tiff) == (60_000, 60_000)


def test_regular_files_are_bounded(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf[1]")
    assert read_regular(path, 6) == b"\xef\xbb\xbf[1]" and read_json(path, "list") == [1]
    with pytest.raises(OSError, match="it has 6 bytes, more than the limit of 5"):
        read_regular(path, 5)
    with pytest.raises(UserError, match="cannot read the list .*a.json: it has 6 bytes, more than the limit of 5"):
        read_json(path, "list", limit=5)
    sparse = tmp_path / "sparse.json"
    with open(sparse, "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UserError, match="more than the limit of 8589934592"):
        read_json(sparse, "list")
    if os.path.exists("/proc/self/pagemap"):  # a regular file of no size that ends after hundreds of gigabytes
        assert read_regular("/proc/self/pagemap", 1 << 20) == b""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 200_000, "nested too deeply"),
        ('{"a":' * 200_000, "nested too deeply"),
        ("[1", "not a JSON file"),
        ("", "not a JSON file"),
        ("\x1b[31m", r"not a JSON file"),
    ],
)
def test_json_that_cannot_be_read_is_one_line(tmp_path, text, reason):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(UserError, match=reason) as caught:
        read_json(path, "annotation file")
    assert str(path) in str(caught.value) and str(caught.value).isprintable()
