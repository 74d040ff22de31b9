"""Hard and soft NMS against answers worked out by hand and against a plain greedy loop."""

import numpy as np
import pytest
import torch

from mmcv_overrides.ops import nms as portable
from mmcv_overrides.ops import vision

# IoU of the first two: 80 * 100 / (2 * 10000 - 8000) = 2/3; the third touches neither.
THREE = torch.tensor([[0.0, 0, 100, 100], [20, 0, 120, 100], [200, 200, 300, 300]])
THREE_SCORES = torch.tensor([0.8, 0.9, 0.1])


def random_boxes(count, seed=0, side=300.0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * side
    boxes = torch.cat([corner, corner + 5 + 60 * torch.rand(count, 2, generator=generator)], 1)
    return boxes, torch.rand(count, generator=generator)


def greedy(boxes, scores, threshold, offset=0):
    """The definition of NMS, pair by pair in Python floats of fp32."""
    boxes = boxes.numpy()
    area = (boxes[:, 2] - boxes[:, 0] + offset) * (boxes[:, 3] - boxes[:, 1] + offset)
    kept = []
    for i in scores.argsort(descending=True).tolist():
        for j in kept:
            size = np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(boxes[i, :2], boxes[j, :2]) + offset
            inter = size.clip(0).prod()
            if inter / (area[j] + area[i] - inter) > np.float32(threshold):
                break
        else:
            kept.append(i)
    return kept


@pytest.fixture
def without_torchvision(monkeypatch):
    monkeypatch.setattr(vision, "ops", None)


@pytest.mark.parametrize(("threshold", "expected"), [(0.66, [1, 2]), (0.67, [1, 0, 2])])
def test_nms_by_hand(threshold, expected):
    from mmcv.ops import nms

    dets, keep = nms(THREE, THREE_SCORES, threshold)
    assert keep.tolist() == expected
    assert torch.equal(dets, torch.cat([THREE, THREE_SCORES[:, None]], 1)[expected])


def test_nms_keeps_a_box_at_exactly_the_threshold():
    boxes = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1]])  # IoU 1/2
    scores = torch.tensor([0.9, 0.8])
    assert portable.nms(boxes, scores, 0.5).tolist() == [0, 1]
    assert portable.nms(boxes, scores, 0.499).tolist() == [0]


def test_nms_offset_widens_the_boxes():
    boxes = torch.tensor([[0.0, 0, 9, 9], [5, 0, 14, 9]])  # IoU 36/126 = 0.286, with offset 50/150 = 0.333
    scores = torch.tensor([0.9, 0.8])
    assert portable.nms(boxes, scores, 0.3, offset=0).tolist() == [0, 1]
    assert portable.nms(boxes, scores, 0.3, offset=1).tolist() == [0]


def test_nms_of_nothing():
    keep = portable.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert keep.shape == (0,) and keep.dtype == torch.int64


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.2, 0.5])
def test_nms_over_many_blocks_equals_the_greedy_loop(monkeypatch, without_torchvision, threshold, offset):
    monkeypatch.setattr(portable, "BLOCK", 64)
    boxes, scores = random_boxes(400, seed=3)
    expected = greedy(boxes, scores, threshold, offset)
    assert 20 < len(expected) < 380
    assert portable.nms(boxes, scores, threshold, offset).tolist() == expected


def test_nms_of_a_bfloat16_model_compares_in_fp32(without_torchvision):
    boxes, scores = random_boxes(100, seed=4)
    boxes = boxes.bfloat16()
    assert portable.nms(boxes, scores, 0.4).tolist() == greedy(boxes.float(), scores, 0.4)


def test_nms_takes_boxes_that_need_a_gradient(without_torchvision):
    assert portable.nms(THREE.clone().requires_grad_(), THREE_SCORES, 0.5).tolist() == [1, 2]


def test_fixed_point_on_devices_equals_the_greedy_pass():
    # A chain in which each box suppresses the next one: every second box survives, after as many rounds as boxes.
    chain = torch.diag(torch.ones(9, dtype=torch.bool), 1)
    assert portable._greedy_on_device(chain).tolist() == [True, False] * 5
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        matrix = (torch.rand(80, 80, generator=generator) < 0.05).triu(1)
        assert torch.equal(portable._greedy_on_device(matrix), portable._greedy_on_host(matrix))


def test_nms_through_torchvision_keeps_mmcv_order_of_equal_scores(monkeypatch):
    class Vision:
        """torchvision's contract: a stable sort of its own, then the greedy pass."""

        calls = 0

        @classmethod
        def nms(cls, boxes, scores, iou_threshold):
            cls.calls += 1
            order = scores.argsort(descending=True, stable=True)
            return order[torch.tensor(greedy(boxes[order], -torch.arange(len(order)).float(), iou_threshold))]

    boxes, _ = random_boxes(60, seed=5)
    scores = torch.full((60,), 0.5)
    monkeypatch.setattr(vision, "ops", None)
    expected = portable.nms(boxes, scores, 0.3)
    monkeypatch.setattr(vision, "ops", Vision)
    assert torch.equal(portable.nms(boxes, scores, 0.3), expected)
    assert Vision.calls >= 1
    calls = Vision.calls
    portable.nms(boxes, scores, 0.3, offset=1)
    assert Vision.calls == calls  # torchvision knows no offset


def test_batched_nms_separates_classes_and_falls_back_to_splitting():
    from mmcv.ops import batched_nms

    boxes, scores = random_boxes(300, seed=6, side=100.0)
    labels = torch.randint(7, (300,), generator=torch.Generator().manual_seed(7))
    expected = set()
    for label in range(7):
        members = (labels == label).nonzero()[:, 0]
        expected |= {int(members[i]) for i in greedy(boxes[members], scores[members], 0.4)}
    for split in (10000, 100):
        dets, keep = batched_nms(boxes, scores, labels, {"type": "nms", "iou_threshold": 0.4, "split_thr": split})
        assert set(keep.tolist()) == expected
        assert torch.equal(dets[:, 4], scores[keep]) and dets[:, 4].diff().max() <= 0


@pytest.mark.parametrize(
    ("method", "expected"),
    [("naive", 0.0), ("linear", 0.8 * (1 - 2 / 3)), ("gaussian", 0.8 * np.exp(-((2 / 3) ** 2) / 0.5))],
)
def test_soft_nms_by_hand(method, expected):
    from mmcv.ops import soft_nms

    dets, keep = soft_nms(THREE, THREE_SCORES, iou_threshold=0.5, sigma=0.5, min_score=0.01, method=method)
    scores = dict(zip(keep.tolist(), dets[:, 4].tolist(), strict=True))
    assert scores[1] == pytest.approx(0.9) and scores[2] == pytest.approx(0.1)
    assert scores.get(0, 0.0) == pytest.approx(expected, abs=1e-6)
    assert torch.equal(dets[:, :4], THREE[keep])
    assert dets[:, 4].diff().max() <= 0


def test_soft_nms_drops_below_the_minimum_and_fills_the_hole_from_the_end():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [80, 80, 90, 90]])
    scores = torch.tensor([0.9, 0.8, 0.5, 0.5])
    from mmcv.ops import soft_nms

    _, keep = soft_nms(boxes, scores, iou_threshold=0.3, min_score=0.01, method="naive")
    assert keep.tolist() == [0, 3, 2]  # box 3 took the place of box 1, and wins the tie with box 2


def test_soft_nms_of_empty_boxes_is_finite_and_of_nothing_is_nothing():
    from mmcv.ops import soft_nms

    dets, keep = soft_nms(torch.zeros(3, 4), torch.tensor([0.3, 0.2, 0.1]), method="gaussian")
    assert keep.tolist() == [0, 1, 2] and torch.allclose(dets[:, 4], torch.tensor([0.3, 0.2, 0.1]))
    dets, keep = soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert dets.shape == (0, 5) and keep.shape == (0,)


def test_nms_match_tells_which_boxes_each_kept_one_has_suppressed():
    from mmcv.ops import nms_match

    boxes = torch.tensor([[0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 10, 9], [50, 50, 60, 58], [0, 0, 10, 5.0]])
    scores = torch.tensor([0.5, 0.9, 0.8, 0.3, 0.7])
    groups = nms_match(torch.cat([boxes, scores[:, None]], 1), 0.5)
    # IoU of 4 with 2 is 5 / 9, of 4 with 0 exactly 0.5; 2 comes first and takes both
    assert [group.tolist() for group in groups] == [[1, 3], [2, 4, 0]]
    assert all(group.dtype == torch.int64 for group in groups)
    assert nms_match(torch.zeros(0, 5), 0.5) == []


def test_nms_match_keeps_the_boxes_of_nms():
    from mmcv.ops import nms, nms_match

    torch.manual_seed(0)
    corner = 80 * torch.rand(60, 2)
    dets = torch.cat([corner, corner + 5 + 30 * torch.rand(60, 2), torch.rand(60, 1)], 1)
    groups = nms_match(dets.numpy(), 0.4)
    assert [int(group[0]) for group in groups] == nms(dets[:, :4].contiguous(), dets[:, 4], 0.4)[1].tolist()
    assert sorted(i for group in groups for i in group.tolist()) == list(range(60))
