"""Points of a pyramid: positions, order, cache."""

import pytest
import torch

from fcos_train.geometry.points import LevelSpec, flatten_levels, point_grid

CPU = torch.device("cpu")


def test_positions_follow_the_maps_row_by_row():
    grid = point_grid(((2, 3), (1, 2)), LevelSpec((8, 16)), CPU)
    assert grid.xy.tolist() == [[4, 12, 20, 4, 12, 20, 8, 24], [4, 4, 4, 12, 12, 12, 8, 8]]
    assert grid.level.tolist() == [0] * 6 + [1] * 2
    assert grid.stride.tolist() == [8.0] * 6 + [16.0] * 2
    assert grid.first == (0, 6, 8) and grid.num_points == 8 and grid.num_levels == 2


def test_axis_positions_are_those_of_the_points():
    spec = LevelSpec((8, 16), offset=0.0, ranges=((-1, 64), (64, 1e8)), radius=1.5)
    grid = point_grid(((2, 3), (1, 2)), spec, CPU)
    assert len(grid.position) == 3 + 2 + 2 + 1  # columns of both levels, rows of both
    assert torch.equal(grid.position[grid.column], grid.xy[0])
    assert torch.equal(grid.position[grid.row], grid.xy[1])
    assert grid.axis.tolist() == [0] * 5 + [1] * 3
    assert grid.low[grid.column].tolist() == grid.low[grid.row].tolist() == [-1.0] * 6 + [64.0] * 2
    assert grid.reach.tolist() == [12.0] * 3 + [24.0] * 2 + [12.0] * 2 + [24.0]


def test_grids_are_made_once():
    spec = LevelSpec((8,))
    first = point_grid(((4, 4),), spec, CPU)
    assert point_grid(((4, 4),), LevelSpec((8,)), CPU) is first
    assert point_grid(((4, 5),), spec, CPU) is not first
    with torch.inference_mode():
        inside = point_grid(((3, 7),), spec, CPU)
    assert not inside.xy.is_inference()


def test_wrong_number_of_maps():
    with pytest.raises(ValueError, match="2 feature maps for 1 strides"):
        point_grid(((2, 3), (1, 2)), LevelSpec((8,)), CPU)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_flatten_levels(layout):
    maps = [torch.arange(2.0 * 3 * h * w).view(2, 3, h, w).to(memory_format=layout) for h, w in ((2, 4), (1, 2))]
    merged = flatten_levels(maps)
    assert merged.shape == (2, 3, 10)
    assert torch.equal(merged[:, :, :8], maps[0].flatten(2)) and torch.equal(merged[:, :, 8:], maps[1].flatten(2))
    memory = merged if layout == torch.contiguous_format else merged.transpose(1, 2)
    assert memory.is_contiguous()
