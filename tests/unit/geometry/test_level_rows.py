"""Maps as rows: neighbours and segments, written out."""

import torch

from fcos_train.geometry.level_rows import membership, mirrored, neighbours, points_of_segments, rows_of, segment_of
from fcos_train.geometry.points import LevelSpec, point_grid

SIZES = ((2, 3), (1, 2))  # 8 points of an image
CPU = torch.device("cpu")


def test_neighbours():
    table = neighbours(SIZES, 2, CPU).view(16, 9)
    out = 16
    assert table[0].tolist() == [out, out, out, out, 0, 1, out, 3, 4]  # the corner of the first map
    assert table[4].tolist() == [0, 1, 2, 3, 4, 5, out, out, out]
    assert table[7].tolist() == [out, out, out, 6, 7, out, out, out, out]  # maps have no neighbours in other maps
    assert table[12].tolist() == [8, 9, 10, 11, 12, 13, out, out, out]  # nor in other images
    assert torch.equal(mirrored(SIZES, 2, CPU).view(16, 9), table.flip(1))


def test_segments():
    assert segment_of(SIZES, 2, CPU).tolist() == [0] * 6 + [1] * 2 + [2] * 6 + [3] * 2
    assert points_of_segments(SIZES, 2, CPU).tolist() == [[6], [2], [6], [2]]
    values = torch.arange(16.0).unsqueeze(1)
    assert (membership(SIZES, 2, CPU) @ values).flatten().tolist() == [15, 13, 63, 29]


def test_rows_are_in_the_order_of_the_points():
    grid = point_grid(SIZES, LevelSpec(strides=(8, 16)), CPU)
    maps = [
        grid.xy[:, first : first + h * w].view(1, 2, h, w) for first, (h, w) in zip(grid.first, SIZES, strict=False)
    ]
    maps = [torch.cat((level, level + 1000)) for level in maps]  # two images
    rows = rows_of(maps)
    assert torch.equal(rows[:8], grid.xy.t()) and torch.equal(rows[8:], grid.xy.t() + 1000)
