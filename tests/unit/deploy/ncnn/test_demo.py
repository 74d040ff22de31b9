"""``fcos-train ncnn-demo``: the words and lines of the classic program."""

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("ncnn")

from fcos_train.cli.main import main
from fcos_train.deploy.decoder import Boxes
from fcos_train.deploy.ncnn.classic import MEAN, lines, preparation
from fcos_train.deploy.ncnn.options import NcnnDemoOptions
from mmcv_overrides.errors import UserError
from tests.support.small_detectors import small_config, write_checkpoint
from tests.unit.deploy.ncnn.conftest import export

BOX = re.compile(r"Bounding box: position\((-?\d+) (-?\d+) (-?\d+) (-?\d+)\) in category (\d+) with score (\d\.\d{3})")


def demo(capsys, *words, status=0):
    """Lines on stdout and stderr."""
    assert main(["ncnn-demo", *map(str, words)]) == status
    out = capsys.readouterr()
    return out.out.splitlines(), out.err.splitlines()


def boxes(printed) -> np.ndarray:
    return np.array([[float(number) for number in BOX.fullmatch(line).groups()] for line in printed])


def sigmoid(x):
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def by_the_contract(image, network, size, cls_thr, iou_thr):
    """The published rule in plain loops, on maps of ncnn: rows x1 y1 x2 y2 label score."""
    from fcos_train.deploy.ncnn.session import Network

    height, width = size
    pixels = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR).astype("f4") - np.float32(MEAN)
    net = Network(network.param, network.weights)
    found = []
    for level in range(3, 8):
        centerness, distances, logits = net.run(
            pixels.transpose(2, 0, 1), [f"P{level}{part}" for part in ("centerness", "bbox_reg", "logits")]
        )
        stride, rows = 2**level, []
        for label, y, x in np.argwhere(sigmoid(logits) > cls_thr):
            left, top, right, bottom = distances[:, y, x] * stride
            x0, y0 = x * stride + stride / 2, y * stride + stride / 2
            score = np.sqrt(sigmoid(logits[label, y, x]) * sigmoid(centerness[0, y, x]))
            rows.append((x0 - left, y0 - top, x0 + right, y0 + bottom, label, score))
        found += sorted(rows, key=lambda row: -row[5])[:1000]
    kept = []
    for row in sorted(found, key=lambda row: -row[5]):
        if all(other[4] != row[4] or overlap(other, row) <= iou_thr for other in kept):
            kept.append(row)
    return np.array(kept)


def overlap(a, b):
    def size(x1, y1, x2, y2):
        return max(x2 - x1 + 1, 0) * max(y2 - y1 + 1, 0)

    both = size(max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
    return both / (size(*a[:4]) + size(*b[:4]) - both)


@pytest.fixture
def classic(network, tmp_path):
    """The network under the classic names, without a description."""
    shutil.copy(network.param, tmp_path / "net.param")
    shutil.copy(network.weights, tmp_path / "net.bin")
    return type(network)(network.checkpoint, tmp_path / "net.param")


def test_the_lines_are_the_classic_ones():
    rows = np.array([[1.9, -2.9, 30.5, 40.99], [0, 0, 5, 5]], "f4")
    found = Boxes(rows, np.array([0.98765, 0.5], "f4"), np.array([7, 0]))
    assert list(lines(5, found)) == [
        "FPN level: 5",
        "Detect 2 objects",
        "Bounding box: position(1 -2 30 40) in category 7 with score 0.988",
        "Bounding box: position(0 0 5 5) in category 0 with score 0.500",
    ]


def test_the_boxes_are_those_of_the_published_rule(classic, picture, capsys):
    printed, noted = demo(capsys, picture, classic.param, classic.weights, 96, 128, 0.3, 0.5)
    expected = by_the_contract(cv2.imread(str(picture)), classic, (96, 128), 0.3, 0.5)
    assert noted == [] and len(expected) > 20
    assert printed[:2] == ["FPN level: 5", f"Detect {len(expected)} objects"]
    found = boxes(printed[2:])
    assert (found[:, 4] == expected[:, 4]).all()
    assert np.abs(found[:, :4] - np.trunc(expected[:, :4])).max() <= 1  # float32 beside float64 at a whole pixel
    assert np.abs(found[:, 5] - expected[:, 5]).max() <= 0.001


def test_the_defaults_are_the_classic_ones(classic, picture, capsys, monkeypatch):
    monkeypatch.chdir(classic.param.parent)
    alone, _ = demo(capsys, picture)
    assert alone == demo(capsys, picture, "net.param", "net.bin", 512, 640, 0.5, 0.6)[0] and len(alone) > 10
    assert alone == demo(capsys, picture, "net.param", "net.bin")[0]
    assert alone == demo(capsys, picture, "net.param", "net.bin", 512, 640, 0.5)[0]
    assert alone != demo(capsys, picture, "net.param", "net.bin", 512, 640, 0.5, 0.3)[0]


@pytest.mark.parametrize("count", [0, 2, 4, 8])
def test_other_counts_of_words_are_refused(count):
    with pytest.raises(UserError, match=rf"give 1, 3, 5, 6 or 7 words, not {count}: IMAGE \[PARAM BIN"):
        NcnnDemoOptions(tuple("abcdefgh"[:count]))


def test_coordinates_of_the_image_and_a_drawing(classic, picture, capsys, tmp_path):
    words = (picture, classic.param, classic.weights, 64, 192, 0.5)
    plain = boxes(demo(capsys, *words)[0][2:])
    printed, noted = demo(capsys, *words, "--original", "--show-dir", tmp_path / "drawn")
    # the image has 150 x 110 px: one pixel of the input is 150/192 by 110/64 of it
    expected = np.clip(plain[:, :4] * np.tile([150 / 192, 110 / 64], 2), 0, np.tile([150, 110], 2))
    found = boxes(printed[2:])
    assert np.abs(found[:, :4] - expected).max() < 3 and (found[:, 4:] == plain[:, 4:]).all()
    assert noted == [f"drawn: {tmp_path}/drawn/picture_pred.jpg"]
    drawn = cv2.imread(str(tmp_path / "drawn" / "picture_pred.jpg"))
    assert drawn.shape == (110, 150, 3) and (drawn != cv2.imread(str(picture))).any()


def test_a_list_names_each_image_and_goes_on_after_an_unreadable_one(classic, picture, capsys, tmp_path):
    (tmp_path / "images.lst").write_text(f"{picture}\n\n{tmp_path}/none.jpg\n{picture}\n")
    words = (classic.param, classic.weights, 96, 128)
    one, _ = demo(capsys, picture, *words)
    printed, noted = demo(capsys, tmp_path / "images.lst", *words, status=2)
    first = f"processing file {picture}"
    assert printed == [first, *one, f"processing file {tmp_path}/none.jpg", first, *one]
    assert noted == [
        f"error when processing {tmp_path}/none.jpg: the file is absent",
        f"error: 1 of 3 images of {tmp_path}/images.lst could not be read; see above",
    ]


def test_the_normalisation_of_the_description_is_obeyed_and_printed(network, classic, picture, capsys):
    words = (picture, classic.param, classic.weights, 96, 128, 0.3)
    alone, _ = demo(capsys, *words)
    place = classic.param.with_name("net.param.json")
    content = json.loads(Path(f"{network.param}.json").read_text())
    place.write_text(json.dumps({**content, "mean": list(MEAN), "std": [1, 1, 1], "bgr_to_rgb": False}))
    assert demo(capsys, *words) == (alone, [])
    place.write_text(
        json.dumps({**content, "mean": [123.675, 116.28, 103.53], "std": [58, 57, 57.5], "bgr_to_rgb": True})
    )
    other, noted = demo(capsys, *words)
    assert noted == ["note: normalised as net.param.json says: RGB, mean 123.675 116.28 103.53, std 58 57 57.5"]
    assert other != alone


def test_three_levels_are_enough(classic, picture, capsys):
    text = classic.param.read_text()
    classic.param.write_text(re.sub(r"\bP([67])(?=logits|bbox_reg|centerness)", r"Q\1", text))
    printed, _ = demo(capsys, picture, classic.param, classic.weights, 96, 128)
    assert printed[0] == "FPN level: 3"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{image} {param} {bin} 100 128", "H W 100 128: the sides must be multiples of 32 px"),
        ("{image} {param} {bin} 0 128", "H 0: must be a whole number above 0"),
        ("{image} {param} {bin} 96 12.5", "W 12.5: must be a whole number above 0"),
        ("{image} {param} {bin} 96 128 1.5", "CLS_THR 1.5: must be a number between 0 and 1"),
        ("{image} {param} {bin} 96 128 0.5 nan", "IOU_THR nan: must be a number between 0 and 1"),
        ("{image} {param} none.bin", "none.bin: there is no such file"),
        ("{image} none.param {bin}", "none.param: there is no such file"),
        ("{image} {param} {short}", "short.bin is truncated, or belongs to another graph"),
        ("{image} {bin} {param}", "net.bin is not a"),
        ("none.png {param} {bin} 96 128", "cannot read image none.png: the file is absent"),
        ("{param} {param} {bin} 96 128", "cannot read image"),
        ("{empty} {param} {bin} 96 128", "empty.lst names no image; write one path per line"),
        ("none.txt {param} {bin} 96 128", "cannot read the list of images none.txt"),
        ("{empty} {param} {bin} --maps m.bin", "--maps is for one image, not for a list"),
    ],
)
def test_bad_input_is_one_line(classic, picture, tmp_path, capsys, words, message):
    (tmp_path / "empty.lst").write_text("\n\n")
    (tmp_path / "short.bin").write_bytes(classic.weights.read_bytes()[:-2])
    places = {"image": picture, "param": classic.param, "bin": classic.weights}
    filled = words.format(short=tmp_path / "short.bin", empty=tmp_path / "empty.lst", **places)
    printed, noted = demo(capsys, *filled.split(), status=2)
    assert printed == [] and len(noted) == 1
    assert noted[0].startswith("error: ") and message in noted[0]


def test_networks_of_other_kinds_are_refused(classic, picture, capsys, tmp_path):
    found = export(write_checkpoint(tmp_path / "r.pth", small_config("retinanet")), "fp32", None, tmp_path)
    with pytest.raises(UserError, match="not an FCOS network with distances in strides, by net_fp32.param.json"):
        preparation(found.param)
    Path(f"{found.param}.json").unlink()
    _, noted = demo(capsys, picture, found.param, found.weights, status=2)
    assert "has no P3logits, P3bbox_reg and P3centerness" in noted[0]
    classic.param.write_text(classic.param.read_text().replace("input_image", "in0"))
    _, noted = demo(capsys, picture, classic.param, classic.weights, status=2)
    assert "has no input_image: expected an FCOS network" in noted[0]
