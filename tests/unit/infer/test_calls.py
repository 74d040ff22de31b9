"""A detector called with every kind of image, and with batches of a real network."""

import dataclasses

import cv2
import numpy as np
import pytest
import supervision as sv
from PIL import Image

from fcos_train.data.coco_names import COCO_NAMES
from fcos_train.infer.detections import Detections
from fcos_train.infer.detector import Detector
from fcos_train.infer.images import write_image
from mmcv_overrides.errors import UserError
from tests.support.spots import SpotDetector, spots

BOX = [10.0, 20.0, 40.0, 60.0]
A = spots(100, 80, (10, 20, 40, 60, 128))


class LastImage(SpotDetector):
    """Remembers the image that arrives at the network."""

    def _one(self, image):
        self.last = image
        return super()._one(image)


def test_kinds_of_images(tmp_path):
    path = write_image(tmp_path / "a.png", A)
    detector = LastImage()
    pil = Image.open(path)
    for one in (A, A[:, :, 0], path, str(path), pil, pil.convert("L"), pil.convert("RGBA"), pil.quantize()):
        found = detector(one)
        assert isinstance(found, Detections) and found.boxes.tolist() == [BOX] and found.names == ["grey"]
        assert np.abs(detector.last.astype(int) - A).max() <= 1
    for many in ([A, path], (pil, str(path)), iter([A, A]), np.stack([A, A])):
        assert [found.boxes.tolist() for found in detector(many)] == [[BOX], [BOX]]
    assert detector([]) == []


def test_colour_order(tmp_path):
    """Arrays are BGR, PIL images RGB; both arrive as BGR."""
    blue = np.zeros((8, 8, 3), np.uint8)
    blue[:, :, 0] = 200
    detector = LastImage()
    for one in (blue, Image.new("RGB", (8, 8), (0, 0, 200)), write_image(tmp_path / "b.png", blue)):
        detector(one)
        assert detector.last[0, 0].tolist() == [200, 0, 0]
    deep = Image.fromarray(np.full((8, 8), 25600, np.uint16))
    detector(deep)
    assert deep.mode.startswith("I;16") and detector.last[0, 0].tolist() == [100, 100, 100]


def test_what_is_no_image(tmp_path):
    detector = SpotDetector()
    (tmp_path / "x.jpg").write_bytes(b"nothing")
    for bad, message in (
        (3, "not an image: expected an array, a path, an address or a PIL image, got int"),
        (None, "got NoneType"),
        (Image.new("F", (4, 4)), "not an image: expected uint8"),
        (np.zeros((4, 4, 3)), "not an image: expected uint8"),
        (tmp_path / "none.jpg", "cannot read image .*none.jpg: the file is absent"),
        (str(tmp_path / "x.jpg"), "cannot read image .*x.jpg: it cannot be decoded"),
        (str(tmp_path), "cannot read image"),
        ([A, "none.jpg"], "cannot read image none.jpg"),
    ):
        with pytest.raises(UserError, match=message):
            detector(bad)
    with pytest.raises(UserError, match="batch_size 0: must be at least 1"):
        detector(A, batch_size=0)
    write_image(tmp_path / "cut.png", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:3000])
    with pytest.raises(UserError, match="cannot read the PIL image: .*truncated"):
        detector(Image.open(tmp_path / "cut.png"))


def test_results():
    found = Detections(
        np.array([[10, 20, 40, 60], [0, 0, 5, 5]], np.float32),
        np.array([0.75, 0.25], np.float32),
        np.array([1, 7]),
        ("circle", "square"),
    )
    assert found.names == ["square", "class 7"] and found.above(0.5).names == ["square"]
    theirs = found.to_supervision()
    assert isinstance(theirs, sv.Detections) and theirs.xyxy.tolist() == found.boxes.tolist()
    assert theirs.confidence.tolist() == [0.75, 0.25] and theirs.class_id.tolist() == [1, 7]
    assert theirs.data["class_name"].tolist() == ["square", "class 7"]
    assert found.to_coco(42) == [
        {"image_id": 42, "category_id": 2, "bbox": [10, 20, 30, 40], "score": 0.75},
        {"image_id": 42, "category_id": 8, "bbox": [0, 0, 5, 5], "score": 0.25},
    ]
    coco = dataclasses.replace(found.above(0.5), classes=COCO_NAMES, labels=np.array([79]))
    assert coco.to_coco("x")[0]["category_id"] == 90  # a toothbrush, in COCO's own numbers
    none = found.above(2.0)
    assert none.to_coco(1) == [] and len(none.to_supervision()) == 0 and none.names == []
    drawn = found.draw(A)
    assert drawn.shape == A.shape and not np.array_equal(drawn, A) and A[0, 0, 0] == 0
    assert np.array_equal(found.draw(A, score_thr=0.9), A)
    pil = Image.fromarray(A)
    assert np.array_equal(np.asarray(found.draw(pil))[:, :, ::-1], found.draw(A))


def test_batches_of_a_network(config, make_checkpoint, picture, monkeypatch):
    """Images of one prepared shape go through the model together, and give what they give alone."""
    detector = Detector.from_checkpoint(make_checkpoint(config), device="cpu")
    wide = cv2.resize(picture, (240, 100))
    images = [picture, wide, picture[::-1].copy(), 255 - picture, wide[:, ::-1].copy(), cv2.resize(picture, (60, 48))]
    alone = [detector(image) for image in images]
    sizes, step = [], detector.model.test_step
    monkeypatch.setattr(detector.model, "test_step", lambda batch: sizes.append(len(batch["inputs"])) or step(batch))
    for batch_size, expected in ((1, [1] * 6), (2, [2, 2, 2]), (3, [3, 1, 2]), (8, [4, 2])):
        sizes.clear()
        together = detector(images, batch_size=batch_size)
        assert sizes == expected
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one.labels, other.labels)
            np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)
    assert alone[0].classes == detector.classes
