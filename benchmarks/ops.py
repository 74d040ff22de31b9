"""NMS of 1,000 boxes in 80 classes on one CPU core: ``mmcv.ops.batched_nms`` against a plain loop over the classes.

python benchmarks/ops.py
"""

import statistics
import time
from collections.abc import Callable

import mmcv_overrides.ops

print(mmcv_overrides.ops.install())

import torch  # noqa: E402
from mmcv.ops import batched_nms  # noqa: E402

BOXES, CLASSES, THRESHOLD, REPEATS = 1000, 80, 0.5, 20


def loop_over_classes(boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The textbook: class by class, box by box, in torch; indices of the kept boxes, best first."""
    kept = []
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        members = members[scores[members].argsort(descending=True)]
        while len(members):
            best, members = members[0], members[1:]
            kept.append(best)
            size = torch.minimum(boxes[best, 2:], boxes[members, 2:]) - torch.maximum(
                boxes[best, :2], boxes[members, :2]
            )
            inter = size.clamp(min=0).prod(1)
            area = (boxes[members, 2:] - boxes[members, :2]).prod(1)
            iou = inter / ((boxes[best, 2:] - boxes[best, :2]).prod() + area - inter)
            members = members[iou <= THRESHOLD]
    kept = torch.stack(kept)
    return kept[scores[kept].argsort(descending=True)]


def median_ms(call: Callable[[], object]) -> float:
    """Median time of a call in milliseconds, after one warm-up."""
    call()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(BOXES, 2, generator=generator) * 400
    boxes = torch.cat([corner, corner + 20 + torch.rand(BOXES, 2, generator=generator) * 180], 1)
    scores = torch.rand(BOXES, generator=generator)
    labels = torch.randint(CLASSES, (BOXES,), generator=generator)
    config = {"type": "nms", "iou_threshold": THRESHOLD}
    keep = batched_nms(boxes, scores, labels, config)[1]
    assert keep.tolist() == loop_over_classes(boxes, scores, labels).tolist()
    print(f"torch {torch.__version__}, 1 thread, {BOXES} boxes, {CLASSES} classes, {len(keep)} kept")
    print(f"batched_nms        {median_ms(lambda: batched_nms(boxes, scores, labels, config)):8.2f} ms")
    print(f"loop over classes  {median_ms(lambda: loop_over_classes(boxes, scores, labels)):8.2f} ms")


if __name__ == "__main__":
    main()
