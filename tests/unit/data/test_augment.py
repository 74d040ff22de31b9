"""The transforms of the presets: right pixels, right boxes, the size of the image unchanged."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from mmdet.structures.bbox import HorizontalBoxes

from fcos_train.data.augment import CentredAffine, SameSizeMixUp, SameSizeMosaic


def sample(grey: int, boxes: list[list[float]], rows: int = 80, columns: int = 100) -> dict:
    """An image of one grey with objects of class 0, as the loading steps leave it."""
    return {
        "img": np.full((rows, columns, 3), grey, np.uint8),
        "img_shape": (rows, columns),
        "gt_bboxes": HorizontalBoxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        "gt_bboxes_labels": np.zeros(len(boxes), np.int64),
        "gt_ignore_flags": np.zeros(len(boxes), bool),
    }


def boxes_of(results: dict) -> list[list[float]]:
    return results["gt_bboxes"].tensor.tolist()


def test_zoom_is_about_the_centre():
    given = sample(50, [[40, 30, 60, 50], [0, 0, 10, 10]])
    given["img"][38:42, 48:52] = 200
    found = CentredAffine((2.0, 2.0), max_translate_ratio=0.0)(given)
    assert boxes_of(found) == [[30, 20, 70, 60]]  # twice as large about (50, 40); the other one has left the image
    assert found["img"].shape == (80, 100, 3) and found["img"].dtype == np.uint8
    assert (found["img"][38:42, 48:52] == 200).all() and (found["img"][30:34] == 50).all()


def test_what_lies_outside_is_grey():
    found = CentredAffine((0.5, 0.5), max_translate_ratio=0.0)(sample(50, [[0, 0, 100, 80]]))
    assert boxes_of(found) == [[25, 20, 75, 60]]
    assert (found["img"][:18] == 114).all() and (found["img"][22:58, 28:72] == 50).all()


def test_zooms_are_drawn_from_the_whole_range():
    random.seed(0)
    wide = [float(CentredAffine((0.8, 1.25))(sample(0, [[45, 35, 55, 45]]))["gt_bboxes"].widths) for _ in range(200)]
    assert 8.0 <= min(wide) < 8.2 and 12.3 < max(wide) <= 12.5 and np.mean(wide) == pytest.approx(10.25, abs=0.2)


@pytest.mark.parametrize(
    ("corner", "boxes"),
    [
        ((40, 50), [[0, 0, 20, 20], [50, 0, 100, 40], [0, 40, 50, 80], [50, 40, 100, 80]]),
        ((0, 0), [[50, 40, 70, 60]]),  # the window is the first image
    ],
)
def test_a_mosaic_is_a_window_of_four_images(monkeypatch, corner, boxes):
    """The four images lie side by side in 200 x 160 px, and the window of 100 x 80 px starts at ``corner``."""
    given = sample(10, [[50, 40, 70, 60]])
    given["mix_results"] = [sample(20 * n, [[0, 0, 100, 80]]) for n in (1, 2, 3)]
    monkeypatch.setattr(np.random, "randint", lambda low, high: corner[0] if high == 81 else corner[1])
    found = SameSizeMosaic()(given)
    assert boxes_of(found) == boxes and found["img"].shape == (80, 100, 3)
    greys = [int(found["img"][y, x, 0]) for y in (10, 70) for x in (10, 90)]
    assert greys == ([10, 20, 40, 60] if corner != (0, 0) else [10] * 4)


def test_a_mosaic_of_another_orientation_keeps_the_size_of_its_first_image():
    given = sample(10, [], rows=100, columns=80)
    given["mix_results"] = [sample(90, [[0, 0, 100, 80]])] * 3
    assert SameSizeMosaic()(given)["img"].shape == (100, 80, 3)


def test_mixup_is_the_mean_with_the_objects_of_both():
    given = sample(100, [[0, 0, 10, 10]])
    given["mix_results"] = [sample(200, [[0, 0, 100, 80]])]
    found = SameSizeMixUp(ratio_range=(1.0, 1.0))(given)
    assert (found["img"] == 150).all() and found["img"].dtype == np.uint8
    assert boxes_of(found) == [[0, 0, 10, 10], [0, 0, 100, 80]]


@pytest.mark.parametrize(("kind", "count"), [(SameSizeMosaic, 3), (SameSizeMixUp, 1)])
def test_others_are_drawn_for_a_share_of_the_images_and_exist(kind, count):
    random.seed(0)
    step, dataset = kind(prob=0.25), [None] * 5
    drawn = [step.get_indexes(dataset) for _ in range(2000)]
    assert {len(indexes) for indexes in drawn} == {0, count}
    assert np.mean([bool(indexes) for indexes in drawn]) == pytest.approx(0.25, abs=0.03)
    assert {index for indexes in drawn for index in indexes} == set(range(5))


@pytest.mark.parametrize("kind", [SameSizeMosaic, SameSizeMixUp])
def test_an_image_without_others_stays_as_it_is(kind):
    given = sample(10, [[0, 0, 5, 5]])
    given["mix_results"] = []
    found = kind()(given)
    assert (found["img"] == 10).all() and boxes_of(found) == [[0, 0, 5, 5]]
