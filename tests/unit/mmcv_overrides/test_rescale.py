"""Resizing keeps at least one pixel of either side, and is mmcv's otherwise."""

import mmcv
import numpy as np
import pytest
from mmdet.registry import TRANSFORMS

import fcos_train.start
from mmcv_overrides.rescale import scaled_size

fcos_train.start.start()


@pytest.mark.parametrize(
    ("size", "scale", "expected"),
    [
        ((400, 1), 0.24, (96, 1)),
        ((4000, 3), 0.024, (96, 1)),
        ((10, 20000), (0.0048, 0.0048), (1, 96)),
        ((640, 480), 0.5, (320, 240)),
        ((5, 7), 0.5, (3, 4)),  # 2.5 and 3.5, rounded up as mmcv does
        ((3, 4), (2, 1.5), (6, 6)),
    ],
)
def test_sizes(size, scale, expected):
    assert scaled_size(size, scale) == expected
    assert min(mmcv.imrescale(np.zeros((size[1], size[0], 3), np.uint8), (96, 96)).shape[:2]) >= 1


@pytest.mark.parametrize("step", [
    dict(type="Resize", scale=(96, 96), keep_ratio=True),
    dict(type="Resize", scale_factor=0.1),
    dict(type="RandomResize", scale=(96, 96), ratio_range=(0.1, 0.2), keep_ratio=True),
    dict(type="RandomChoiceResize", scales=[(96, 64)], keep_ratio=True),
])  # fmt: skip
@pytest.mark.parametrize(("height", "width"), [(1, 400), (3, 4000), (20000, 10), (1, 1)])
def test_every_resize_of_a_pipeline(step, height, width):
    results = dict(img=np.full((height, width, 3), 7, np.uint8), img_shape=(height, width))
    resized = TRANSFORMS.build(step)(results)
    rows, columns = resized["img"].shape[:2]
    assert rows >= 1 and columns >= 1 and resized["img"].min() == 7
    assert resized["scale_factor"] == (columns / width, rows / height)
