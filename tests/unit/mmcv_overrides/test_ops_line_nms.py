"""NMS of lanes: distance over the rows that two lanes share, groups, order of the input."""

import torch

ROWS = 72


def lane(start, length, x):
    """A lane from row ``start`` on, at ``x`` on every row of the image."""
    return torch.cat([torch.tensor([0.0, 0, start / (ROWS - 1), 0, length]), torch.full((ROWS,), float(x))])


def nms(lanes, scores, threshold=1.5, top_k=10):
    from mmcv.ops import line_nms

    keep, count, parent = line_nms(torch.stack(lanes), torch.tensor(scores), threshold, top_k)
    return keep.tolist(), count.item(), parent.tolist()


LANES = [lane(0, 30, 10), lane(20, 40, 11), lane(10, 20, 40), lane(40, 10, 10), lane(60, 12, 41)]
SCORES = [0.5, 0.9, 0.8, 0.7, 0.6]


def test_close_lanes_that_share_rows_form_a_group():
    # 0 (rows 0 to 29) and 3 (40 to 49) are 1 from lane 1 (20 to 59); 4 shares no row with 2
    assert nms(LANES, SCORES) == ([1, 2, 4, 0, 0], 3, [1, 1, 2, 1, 3])


def test_the_threshold_is_excluded():
    assert nms(LANES, SCORES, threshold=1.0)[:2] == ([1, 2, 3, 4, 0], 5)


def test_the_result_does_not_depend_on_the_order_of_the_input():
    keep, count, _ = nms(LANES[::-1], SCORES[::-1])
    assert ([4 - i for i in keep[:count]], count) == ([1, 2, 4], 3)


def test_at_most_top_k_lanes_are_kept():
    assert nms(LANES, SCORES, top_k=1) == ([1, 0, 0, 0, 0], 1, [1, 1, 0, 1, 0])
