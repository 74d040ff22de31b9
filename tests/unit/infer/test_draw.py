"""Drawings: positions and colours; the input is unchanged."""

import numpy as np

from fcos_train.infer.detector import Detections
from fcos_train.infer.draw import _palettes, draw, draw_plain, zoom_for

CLASSES = ("circle", "square")


def colour(label):
    return _palettes()[0].by_idx(label).as_bgr()


def found(*boxes, score=0.9, label=0):
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.full(count, score, np.float32), np.full(count, label, np.int64)
    )


def test_box_is_where_it_was_found():
    image = np.zeros((200, 300, 3), np.uint8)
    drawn = draw(image, found([50, 60, 150, 160]), CLASSES)
    assert drawn.shape == image.shape and not image.any()
    for x, y in ((50, 110), (150, 110), (100, 160)):  # left, right and lower edge
        assert tuple(int(v) for v in drawn[y, x]) == colour(0)
    assert not drawn[110, 100].any() and not drawn[180, 100].any()
    assert drawn[40:59, 50:90].any()  # the name stands above


def test_zoom_moves_boxes_with_the_picture():
    image = np.zeros((80, 100, 3), np.uint8)
    drawn = draw(image, found([10, 30, 60, 70]), CLASSES, zoom=4)
    assert drawn.shape == (320, 400, 3)
    assert tuple(int(v) for v in drawn[200, 40]) == colour(0) and tuple(int(v) for v in drawn[280, 140]) == colour(0)
    assert [zoom_for(np.zeros((h, w, 3))) for h, w in ((80, 100), (240, 320), (480, 640), (1080, 1920))] == [4, 2, 1, 1]


def test_low_scores_are_left_out():
    image = np.full((60, 60, 3), 7, np.uint8)
    assert (draw(image, found([5, 5, 40, 40], score=0.29), CLASSES, score_thr=0.3) == 7).all()
    assert (draw(image, found(), CLASSES) == 7).all()


def test_names_stay_inside_the_picture():
    image = np.zeros((40, 60, 3), np.uint8)
    for box in ([0, 0, 60, 40], [55, 35, 90, 80], [-30, -30, 5, 5], [-1e9, 0, 1e9, 40]):
        assert draw(image, found(box, label=5), CLASSES).any()  # a label without a name as well


def test_colours_follow_the_label_and_texts_stand_out():
    fills, inks = _palettes()
    assert len({colour(label) for label in range(len(fills.colors))}) == len(fills.colors) > 20
    assert colour(len(fills.colors)) == colour(0)  # they repeat
    for fill, ink in zip(fills.colors, inks.colors, strict=True):
        luma = 0.299 * fill.r + 0.587 * fill.g + 0.114 * fill.b
        assert ink.as_rgb() == ((0, 0, 0) if luma > 128 else (255, 255, 255))


def test_plain_boxes_are_one_pixel_wide_with_text_above():
    image = np.zeros((200, 300, 3), np.uint8)
    green, red = (0, 255, 0), (0, 0, 255)
    drawn = draw_plain(image, [[50, 60, 150, 160]], ["circle|0.90"], green, red)
    assert not image.any() and (drawn[110, 50] == green).all() and not drawn[110, 51:150].any()
    assert (drawn[45:59, 50:120] == red).all(2).any() and not drawn[:40].any()
    assert draw_plain(image, [[-1e9, -1e9, 1e9, 1e9]], ["huge"], green, red).shape == image.shape
