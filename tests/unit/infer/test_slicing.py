"""Slices find what is too small in the whole image; boxes are in pixels of the whole image."""

import numpy as np
import pytest

from mmcv_overrides.errors import UserError
from tests.support.spots import SpotDetector, spots

# 8 px in an image of 1000 px, which a detector of 250 px sees as 2 px; one of them is cut by the border of a slice.
SMALL = [(100, 100, 108, 108, 128), (396, 50, 404, 58, 128), (700, 420, 708, 428, 192)]
LARGE = (300, 100, 900, 400, 255)  # larger than a slice


@pytest.mark.parametrize("batch_size", [1, 4])
def test_small_and_large_objects(batch_size):
    image = spots(1000, 500, *SMALL, LARGE)
    detector = SpotDetector(side=250)
    whole = detector(image)
    np.testing.assert_array_equal(whole.boxes, [LARGE[:4]])
    detector.batches.clear()
    found = detector(image, slice_wh=(400, 400), overlap=0.1, batch_size=batch_size)
    assert max(detector.batches) == batch_size
    boxes = {tuple(box) for box in found.boxes.tolist()}
    # 250 px of 400: the boxes of small objects are known to 1.6 px.
    for x1, y1, x2, y2, _ in SMALL:
        near = [box for box in boxes if np.abs(np.subtract(box, (x1, y1, x2, y2))).max() <= 1.6]
        assert len(near) == 1
    assert found.boxes.dtype == np.float32 and found.labels.dtype == np.int64 and found.classes == ("grey", "white")
    assert (np.diff(found.scores) <= 0).all()


def test_boxes_are_moved_with_their_slice():
    """At full resolution the slices give what the whole image gives, each object once."""
    boxes = [(20, 30, 60, 70, 128), (180, 40, 220, 80, 192), (390, 250, 399, 299, 128)]
    image = spots(400, 300, *boxes)
    whole, found = SpotDetector(sized=True)(image), SpotDetector(sized=True)(image, slice_wh=(150, 120), overlap=0.5)
    np.testing.assert_array_equal(sorted(found.boxes.tolist()), sorted(whole.boxes.tolist()))
    assert sorted(map(tuple, found.boxes.tolist())) == sorted(box[:4] for box in boxes)


def test_an_image_of_one_slice_is_searched_once():
    detector = SpotDetector()
    image = spots(100, 80, (10, 20, 40, 60, 128))
    assert len(detector(image, slice_wh=(100, 100))) == 1 and detector.batches == [1]
    with pytest.raises(UserError, match="slices of 0 x 10 px"):
        detector(image, slice_wh=(0, 10))
    with pytest.raises(UserError, match="overlap 1.0"):
        detector(image, slice_wh=(10, 10), overlap=1.0)
