"""Boxes that are no COCO boxes, boxes that nothing can be learned from, and images that load dark or are thin."""

import json

import cv2
import numpy as np
import pytest

from fcos_train.data import make_shapes, resolve
from fcos_train.data.depth import depth_note, depth_warnings
from fcos_train.data.headers import read_headers
from fcos_train.data.images import read_image
from mmcv_overrides.errors import UserError


@pytest.fixture
def rewrite(tmp_path):
    """rewrite(box, width, height -> new box) -> what a check says of the set: its warnings, or raises."""

    def make(change, splits=("train", "val"), size=(300, 240), keep=None):
        data = make_shapes(tmp_path / "data", train=6, val=2, size=size)
        for split in splits:
            file = data / "annotations" / f"instances_{split}2017.json"
            coco = json.loads(file.read_text())
            coco["annotations"] = coco["annotations"][:keep]
            for annotation in coco["annotations"]:
                annotation["bbox"] = change(*annotation["bbox"], *size)
            file.write_text(json.dumps(coco))
        return resolve(data, tmp_path / "cache").report

    return make


def corners(x, y, w, h, width, height):
    return [x, y, x + w, y + h]


@pytest.mark.parametrize(
    "change",
    [
        lambda x, y, w, h, width, height: [x / width, y / height, w / width, h / height],
        lambda x, y, w, h, width, height: [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height],
        lambda x, y, w, h, width, height: [0, 0, 1, 1],  # each covers its image; not thinner than a pixel
    ],
)
def test_fractions_are_refused(rewrite, change):
    with pytest.raises(UserError, match=r"train: all boxes of .*json lie within 1.5 px .* fractions of the image"):
        rewrite(change)
    with pytest.raises(UserError, match="val: all boxes of .* fractions of the image"):
        rewrite(change, splits=("val",))


def test_boxes_that_are_too_thin_to_learn_from(rewrite):
    with pytest.raises(UserError, match="train: no usable image with a box .*boxes thinner than 1 px"):
        rewrite(lambda x, y, w, h, *_: [x, y, 0.5, h])


def test_corners_are_refused_or_pointed_out(rewrite):
    with pytest.raises(UserError, match=r"train: \d+ of \d+ boxes reach far outside .* Replace x2 by x2 - x1"):
        rewrite(corners)
    few = rewrite(corners, splits=("val",), keep=5)
    assert len([w for w in few.warnings if w.startswith("val: ") and "read as x1, y1, x2, y2" in w]) == 1
    assert few.faults_of("val")[-1].endswith("COCO's is x, y, width, height")


def test_sound_boxes_are_not_suspected(rewrite):
    assert rewrite(lambda *box: list(box[:4])).warnings == []
    overshoot = rewrite(lambda x, y, w, h, width, height: [0, 0, width + 5, height + 5])  # all of the image, carelessly
    assert overshoot.warnings == [] and overshoot.counts["train"]["clipped"] > 6


def test_per_cent_are_pointed_out(rewrite):
    report = rewrite(lambda x, y, w, h, width, height: [100 * x / width, 0, 100 * w / width, 100], size=(400, 300))
    assert [w.split(":")[0] for w in report.warnings if "per cent of the image" in w] == ["train"]  # val has too few


@pytest.mark.parametrize(("bits", "loaded", "factor"), [(10, 3, 64), (12, 15, 16), (14, 63, 4)])
def test_values_of_fewer_bits_than_16(tmp_path, bits, loaded, factor):
    pixels = np.zeros((20, 30, 3), np.uint16)
    pixels[5:9] = 2**bits - 1
    for number in range(20):
        cv2.imwrite(str(tmp_path / f"{number}.png"), pixels)
    headers = read_headers(tmp_path, [f"{number}.png" for number in range(20)])
    image = read_image(tmp_path / "3.png")
    assert image.max() == loaded
    (warning,) = depth_warnings("train", tmp_path, headers)
    expected = f"values of {bits} bits only: they load almost black, up to {loaded} of 255. Multiply the values by "
    expected += str(factor)
    assert warning.startswith("train: 20 images have 16 bits") and expected in warning
    assert expected in (depth_note(tmp_path / "3.png", image) or "")
    cv2.imwrite(str(tmp_path / "full.png"), pixels * factor)
    cv2.imwrite(str(tmp_path / "night.png"), np.full((20, 30), 9, np.uint8))  # 8 bits: as dark as it is
    for name in ("full.png", "night.png"):
        assert depth_warnings("train", tmp_path, read_headers(tmp_path, [name])) == []
        assert depth_note(tmp_path / name, read_image(tmp_path / name)) is None


def test_thin_images_are_kept_with_a_note(tmp_path):
    data = make_shapes(tmp_path / "data", train=6, val=2, size=(64, 48))
    file = data / "annotations" / "instances_train2017.json"
    coco = json.loads(file.read_text())
    for number, (width, height) in enumerate([(400, 1), (3, 400)]):
        image = coco["images"][number]
        image.update(width=width, height=height)
        cv2.imwrite(str(data / "train2017" / image["file_name"]), np.zeros((height, width, 3), np.uint8))
    file.write_text(json.dumps(coco))
    report = resolve(data, tmp_path / "cache").report
    assert report.counts["train"]["thin_images"] == 2 and report.counts["train"]["images"] == 6
    assert "shapes_000001.jpg: 400x1; shapes_000002.jpg: 3x400" in "".join(report.faults_of("train"))
