"""Overlaps of axis-aligned and rotated boxes: areas by hand, a polygon clipper as reference, NMS of rotated boxes."""

import math

import pytest
import torch


def test_axis_aligned_overlaps_by_hand():
    from mmcv.ops import bbox_overlaps

    a = torch.tensor([[0.0, 0, 10, 10], [10, 10, 20, 20]])
    b = torch.tensor([[0.0, 0, 10, 20], [0, 10, 10, 19], [10, 10, 20, 20]])
    assert bbox_overlaps(a, b).tolist() == [[0.5, 0, 0], [0, 0, 1]]
    assert bbox_overlaps(a, b, mode="iof").tolist() == [[1, 0, 0], [0, 0, 1]]
    assert bbox_overlaps(a, b[[0, 2]], aligned=True).tolist() == [0.5, 1]
    assert bbox_overlaps(a, b[[0, 2]], mode="iof", aligned=True).tolist() == [1, 1]
    # with offset 1 the boxes are 11 x 11 and 11 x 21, and share 121 pixels
    assert bbox_overlaps(a[:1], b[:1], offset=1).item() == pytest.approx(121 / 231)
    assert bbox_overlaps(torch.zeros(0, 4), b).shape == (0, 3)


ROTATED = [  # box, box, intersection over union
    ([0, 0, 4, 2, 0], [1, 0, 4, 2, 0], 6 / 10),
    ([0, 0, 2, 2, 0], [0, 0, 2, 2, math.pi / 4], (8 * math.sqrt(2) - 8) / (16 - 8 * math.sqrt(2))),  # an octagon
    ([5, 7, 4, 2, 0.3], [5, 7, 4, 2, 0.3], 1.0),
    ([5, 7, 4, 2, 0.3], [5, 7, 2, 4, 0.3 + math.pi / 2], 1.0),  # the same box, described in another way
    ([5, 7, 4, 2, 0.3], [5, 7, 4, 2, 0.3 + math.pi], 1.0),
    ([0, 0, 6, 6, 0.4], [0, 0, 2, 3, 1.1], 6 / 36),  # within
    ([0, 0, 4, 4, 0.7], [math.cos(0.7), math.sin(0.7), 2, 4, 0.7], 8 / 16),  # within, on three common sides
    ([0, 0, 2, 2, 0], [2, 0, 2, 2, 0], 0.0),  # they touch
    ([0, 0, 2, 2, 0], [9, 9, 2, 2, 0.5], 0.0),
    ([0, 0, 0, 2, 0], [0, 0, 2, 2, 0], 0.0),
]


@pytest.mark.parametrize(("a", "b", "expected"), ROTATED)
def test_rotated_overlap_by_hand(a, b, expected):
    from mmcv.ops import box_iou_rotated

    shift = torch.tensor([3000.0, 500, 0, 0, 0], dtype=torch.float64)  # far from the origin
    a, b = (torch.tensor([box], dtype=torch.float64) + shift for box in (a, b))
    for first, second in ((a, b), (b, a)):
        assert box_iou_rotated(first, second).item() == pytest.approx(expected, abs=1e-7)
        assert box_iou_rotated(first, second, aligned=True).tolist() == pytest.approx([expected], abs=1e-7)


def corners(box):
    x, y, w, h, angle = box
    cos, sin = math.cos(angle), math.sin(angle)
    return [(x + cos * i * w - sin * j * h, y + sin * i * w + cos * j * h) for i, j in SQUARE]


SQUARE = [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]


def clipped_area(polygon, clip):
    """Area of the intersection of two convex polygons, by clipping at one side after the other."""
    for (px, py), (qx, qy) in zip(clip, clip[1:] + clip[:1], strict=True):
        level = [(qx - px) * (y - py) - (qy - py) * (x - px) for x, y in polygon]
        result = []
        for i, point in enumerate(polygon):
            last, before = polygon[i - 1], level[i - 1]
            if (before > 0) != (level[i] > 0):
                t = before / (before - level[i])
                result.append((last[0] + t * (point[0] - last[0]), last[1] + t * (point[1] - last[1])))
            if level[i] > 0:
                result.append(point)
        polygon = result
        if not polygon:
            return 0.0
    return sum(a[0] * b[1] - a[1] * b[0] for a, b in zip(polygon, polygon[1:] + polygon[:1], strict=True)) / 2


@pytest.mark.parametrize("pairs", [1 << 16, 7])
def test_rotated_overlaps_equal_a_polygon_clipper(monkeypatch, pairs):
    from mmcv.ops import box_iou_rotated

    from mmcv_overrides.ops import overlaps

    monkeypatch.setattr(overlaps, "PAIRS", pairs)
    torch.manual_seed(0)
    boxes = torch.rand(40, 5) * torch.tensor([12, 12, 8, 8, 7.0]) + torch.tensor([0, 0, 1, 1, -3.5])
    a, b = boxes[:20], boxes[20:]
    iou, part = box_iou_rotated(a, b), box_iou_rotated(a, b, mode="iof", clockwise=False)
    assert (iou > 0).sum() > 100 and (iou == 0).sum() > 20
    for i, first in enumerate(a.double().tolist()):
        for j, second in enumerate(b.double().tolist()):
            area_a, area_b = first[2] * first[3], second[2] * second[3]
            inter = clipped_area(corners(first), corners(second))
            assert iou[i, j].item() == pytest.approx(inter / (area_a + area_b - inter), abs=1e-6)
            flipped = [corners([*box[:4], -box[4]]) for box in (first, second)]
            assert part[i, j].item() == pytest.approx(clipped_area(*flipped) / area_a, abs=1e-6)


def test_rotated_nms_keeps_the_best_of_each_cluster():
    from mmcv.ops import batched_nms, nms_rotated

    boxes = torch.tensor([[5, 5, 8, 2, 0.5], [20, 5, 8, 2, 0.5], [5, 5, 8, 2, 0.6], [5, 5, 8, 2, 0.5 + math.pi / 2]])
    scores = torch.tensor([0.6, 0.5, 0.9, 0.7])
    dets, keep = nms_rotated(boxes, scores, 0.5)
    assert keep.tolist() == [2, 3, 1]  # 0 lies on 2; 3 crosses it at a right angle
    torch.testing.assert_close(dets, torch.cat([boxes, scores[:, None]], 1)[keep])
    labels = torch.tensor([1, 0, 0, 0])
    assert batched_nms(boxes, scores, labels, {"type": "nms_rotated", "iou_threshold": 0.5})[1].tolist() == [2, 3, 0, 1]
    flipped = boxes * torch.tensor([1, 1, 1, 1, -1])
    assert nms_rotated(flipped, scores, 0.5, clockwise=False)[1].tolist() == [2, 3, 1]
    assert nms_rotated(boxes, scores, 1e-9)[1].tolist() == [2, 1]
