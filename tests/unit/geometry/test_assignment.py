"""Assignment of cases that are small enough to be checked by hand."""

import pytest
import torch

from fcos_train.geometry import assignment
from fcos_train.geometry.assignment import fcos_targets, fsaf_targets
from fcos_train.geometry.boxes import pad_objects
from fcos_train.geometry.points import LevelSpec, point_grid

CPU = torch.device("cpu")


def _fcos(boxes, labels, ranges=((-1, 1e8),), radius=None, size=(4, 4), strides=(8,), in_strides=False):
    sizes = tuple((max(1, size[0] * strides[0] // s), max(1, size[1] * strides[0] // s)) for s in strides)
    grid = point_grid(sizes, LevelSpec(strides, ranges=ranges, radius=radius), CPU)
    padded = pad_objects([torch.tensor(boxes).view(-1, 4)], [torch.tensor(labels, dtype=torch.int64)])
    return grid, fcos_targets(grid, *padded, num_classes=9, in_strides=in_strides)


def test_points_inside_a_box_take_its_label_and_distances():
    grid, targets = _fcos([[0.0, 0, 16, 8]], [5])
    assert targets.labels.view(4, 4).tolist() == [[5, 5, 9, 9]] + [[9] * 4] * 3
    assert targets.foreground.sum() == 2
    assert targets.distances[0, :, :, 1].tolist() == [[12, 4], [4, 4]]  # point (12, 4): near x, y; far x, y
    assert torch.all(targets.distances[0, :, :, 2:] == 1)


def test_a_point_on_the_border_is_outside():
    _, targets = _fcos([[4.0, 0, 20, 8]], [5])  # points x = 4 and 20 lie on the border
    assert targets.labels.view(4, 4)[0].tolist() == [9, 5, 9, 9]


def test_the_smallest_box_wins_and_ties_go_to_the_first():
    _, targets = _fcos([[0.0, 0, 32, 32], [0, 0, 16, 16], [0, 0, 16, 16]], [1, 2, 3])
    assert targets.labels.view(4, 4).tolist() == [[2, 2, 1, 1]] * 2 + [[1] * 4] * 2


def test_ranges_are_closed_at_both_ends():
    boxes, labels = [[0.0, 0, 12, 12]], [1]  # largest distances: 8 at (4, 4), (12, 12) on the border
    assert _fcos(boxes, labels, ranges=((8, 9),))[1].foreground.sum() == 1
    assert _fcos(boxes, labels, ranges=((-1, 8),))[1].foreground.sum() == 1
    assert _fcos(boxes, labels, ranges=((8.01, 9),))[1].foreground.sum() == 0
    assert _fcos(boxes, labels, ranges=((-1, 7.99),))[1].foreground.sum() == 0


def test_an_infinite_range_ends_nowhere_but_at_the_box():
    assert _fcos([[0.0, 0, 12, 12]], [1], ranges=((0, float("inf")),))[1].foreground.sum() == 1


def test_centre_sampling_takes_the_square_around_the_centre():
    _, whole = _fcos([[0.0, 0, 64, 64]], [1], size=(8, 8))
    _, centre = _fcos([[0.0, 0, 64, 64]], [1], size=(8, 8), radius=1.5)  # 32 +- 12: points 28, 36
    assert whole.foreground.sum() == 64
    assert centre.foreground.view(8, 8).nonzero().tolist() == [[3, 3], [3, 4], [4, 3], [4, 4]]


def test_distances_in_strides():
    grid, targets = _fcos([[0.0, 0, 32, 32]], [1], ranges=((-1, 1e8),) * 2, strides=(8, 16), in_strides=True)
    assert targets.distances[0, :, :, -1].tolist() == [[1.5, 1.5], [0.5, 0.5]]  # point (24, 24) of stride 16


def test_padding_is_never_assigned():
    grid = point_grid(((4, 4),), LevelSpec((8,)), CPU)
    boxes = torch.tensor([[[0.0, 0, 32, 32]] * 8])
    labels = torch.zeros((1, 8), dtype=torch.int64)
    assert not fcos_targets(grid, boxes, labels, torch.tensor([0]), 3).foreground.any()
    assert not fsaf_targets(grid, boxes, labels, torch.tensor([0]), 3).foreground.any()


@pytest.mark.parametrize("objects", [254, 255, 256, 300, 700])
def test_many_objects_agree_with_a_plain_search(objects):
    generator = torch.Generator().manual_seed(objects)
    sides = torch.rand(objects, 2, generator=generator) * 20 + 2
    corner = torch.rand(objects, 2, generator=generator) * 100
    boxes = torch.cat((corner, corner + sides), 1)
    boxes[1::7] = boxes[0]  # ties
    labels = torch.arange(objects)
    grid = point_grid(((16, 16),), LevelSpec((8,)), CPU)
    targets = fcos_targets(grid, *pad_objects([boxes], [labels]), num_classes=objects)
    x, y = grid.xy[0][:, None], grid.xy[1][:, None]
    inside = (x > boxes[:, 0]) & (x < boxes[:, 2]) & (y > boxes[:, 1]) & (y < boxes[:, 3])
    areas = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).expand(len(grid.xy[0]), -1)
    least, first = areas.masked_fill(~inside, 1e9).min(1)
    assert targets.labels[0].tolist() == torch.where(least < 1e9, first, objects).tolist()


def _float_ranks(device, objects):
    return torch.float32


@pytest.mark.parametrize("name,value", [("MAX_PAIRS", 5000), ("_rank_dtype", _float_ranks)])  # slices; an NPU's type
def test_slices_and_rank_types_change_nothing(monkeypatch, name, value):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 50, 2, generator=generator) * 100
    boxes = torch.cat((corner, corner + 5 + torch.rand(2, 50, 2, generator=generator) * 60), 2)
    objects = boxes, torch.randint(0, 4, (2, 50), generator=generator), torch.tensor([50, 31])
    grids = [point_grid(((16, 16),), LevelSpec((8,), offset=offset), CPU) for offset in (0.5, 0.0)]

    def targets():
        return fcos_targets(grids[0], *objects, 4), fsaf_targets(grids[1], *objects, 4)

    expected = targets()
    monkeypatch.setattr(assignment, name, value)
    for a, b in zip(expected, targets(), strict=True):
        assert a.foreground.any()
        for field in vars(a):
            assert torch.equal(getattr(a, field), getattr(b, field)), field


def _fsaf(boxes, labels, **options):
    grid = point_grid(((8, 8),), LevelSpec((8,), offset=0.0), CPU)
    padded = pad_objects([torch.tensor(boxes).view(-1, 4)], [torch.tensor(labels, dtype=torch.int64)])
    return fsaf_targets(grid, *padded, num_classes=3, **options)


def test_fsaf_claims_the_shrunk_box():
    targets = _fsaf([[0.0, 0, 64, 64]], [2], positive=0.5, negative=0.5)  # 16..48: cells at 16..48 (12..20 ... 44..52)
    assert targets.foreground.view(8, 8).nonzero().unique().tolist() == [2, 3, 4, 5, 6]
    assert targets.labels[targets.foreground].tolist() == [2] * 25


def test_fsaf_smaller_box_wins_and_the_larger_is_ignored():
    targets = _fsaf([[0.0, 0, 64, 64], [24, 24, 40, 40]], [0, 1], positive=0.5, negative=0.5)
    centre = 4 * 8 + 4
    assert targets.labels[0, centre] == 1 and targets.ignored[0, :, centre].tolist() == [True, True, False]
    same = _fsaf([[0.0, 0, 64, 64], [24, 24, 40, 40]], [1, 1], positive=0.5, negative=0.5)
    assert same.labels[0, centre] == 3 and same.ignored[0, 1, centre]  # ignored for its own class: background
    kept = _fsaf([[0.0, 0, 64, 64], [24, 24, 40, 40]], [1, 1], positive=0.5, negative=0.5, foreground_first=True)
    assert kept.labels[0, centre] == 1


def test_fsaf_ignored_regions_and_uncounted_points():
    counted = torch.ones(1, 64, dtype=torch.bool)
    counted[0, :8] = False
    ignore = torch.tensor([[[16.0, 16, 48, 48]] + [[0.0] * 4] * 7]), torch.tensor([1])
    targets = _fsaf([[0.0, 0, 64, 64]], [2], positive=1.0, negative=1.0, counted=counted, ignore=ignore)
    out = ~targets.counted.view(8, 8)
    assert out[0].all() and out[1:].nonzero().tolist() == [[3, 4]]  # 16..48 shrunk to 24..40: the cell at (32, 32)
    assert not (targets.foreground & ~targets.counted).any()
