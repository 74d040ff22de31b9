"""Non-maximum suppression of lanes (Zheng et al., 2022, https://arxiv.org/abs/2203.10350), as CLRNet needs it."""

import torch
from torch import Tensor

from mmcv_overrides.ops.rows import compute_dtype

START, LENGTH, FIRST_OFFSET = 2, 4, 5


def line_nms_forward(boxes: Tensor, scores: Tensor, thresh: float, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Greedy suppression of lanes whose mean distance from a kept one is below a threshold.

    mmcv 2.3.6 compares lanes of the sorted list with lanes of the unsorted one, so that its result depends on the order
    of the input; this operator compares sorted lanes.

    Args:
        boxes: lanes [N, 5 + K]: at column 2 the first row as a part of the height, at 4 the number of rows, from 5 on
            the x position at each of K rows.
        scores: [N].
        thresh: largest mean distance between the rows that two lanes share, in the units of the x positions; excluded.
        top_k: number of lanes to keep at most.

    Returns:
        ([N] indices of the kept lanes, best first, then zeros; their number, a 0-d tensor; [N] for each lane the number
        of the kept lane that it belongs to, counted from 1, or 0), all int64.
    """
    lanes, order = boxes.to(compute_dtype(boxes.dtype)), scores.argsort(descending=True)
    close = _close(lanes[order], thresh).cpu()
    keep, parent = torch.zeros(len(lanes), dtype=torch.int64), torch.zeros(len(lanes), dtype=torch.int64)
    gone = torch.zeros(len(lanes), dtype=torch.bool)
    host_order, count = order.cpu(), 0
    for position in range(len(lanes)):
        if count == top_k:
            break
        if gone[position]:
            continue
        group = close[position].clone()
        group[:position] = False
        group[position] = True
        keep[count], count = host_order[position], count + 1
        parent[host_order[group]] = count
        gone |= group
    return keep.to(boxes.device), torch.tensor(count, device=boxes.device), parent.to(boxes.device)


def _close(lanes: Tensor, thresh: float) -> Tensor:
    """Whether lanes [N, 5 + K] are closer than the threshold on the rows that they share, bool [N, N]."""
    positions = lanes[:, FIRST_OFFSET:]
    rows = positions.size(1)
    start = (lanes[:, START] * (rows - 1) + 0.5).long()
    end = start + lanes[:, LENGTH].long() - 1
    first = torch.maximum(start[:, None], start)
    last = torch.minimum(end[:, None], end).clamp(max=rows - 1)
    row = torch.arange(rows, device=lanes.device)
    shared = (row >= first[..., None]) & (row <= last[..., None])  # [N, N, K]
    distance = ((positions[:, None] - positions).abs() * shared).sum(2)
    return (distance < thresh * (last - first + 1)) & (last >= first) & (first >= 0)
