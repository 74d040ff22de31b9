"""Post-processing of the int32 maps of an RDK board on one core: the product's decoder beside the published algorithm.

python benchmarks/decoder_int32.py [--out benchmarks/results/FILE.txt]

512 x 512 pixels, 80 classes, strides 8 to 128, [H, W, C] int32 maps with one scale per channel (value = integer x
scale), distances in strides, score sqrt(class x centerness), threshold 0.5, suppression among all classes at IoU 0.6:
the contract of the RDK X5 models. The scenes are those of benchmarks/decoder.py, quantised.

The peer is the algorithm of the published host program, in numpy and OpenCV: convert all maps to floats, take the best
class of every point, compute all scores, keep those above the threshold, decode, cv2.dnn.NMSBoxes (with x, y, width,
height, which the original confuses). Boxes, scores and labels must be equal. All are called in turn; each figure is CPU
time of the process, which the other load of a machine disturbs less than the clock on the wall, but not little.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from decoder import CLASSES, SIZE, STRIDES, scene

from fcos_train.deploy.decoder import Boxes, Decoder, DecodeRule
from mmcv_overrides.device import ACCELERATORS

SCORE_THR, IOU_THR = 0.5, 0.6
RULE = DecodeRule(
    stride_units=True, sqrt=True, threshold_on="score", rank_by="score", best_class_only=True, class_agnostic=True,
    score_thr=SCORE_THR, iou_thr=IOU_THR, layout="NHWC",
)  # fmt: skip
Maps = list[list[np.ndarray]]  # classes, boxes, centerness; each by level


def quantised(seed: int, objects: int) -> tuple[Maps, Maps]:
    """The maps [1, H, W, C] int32 of a scene and their scales [C] f32; the ranges of the channels differ up to 4 x."""
    rng = np.random.default_rng(seed)
    cls, box, ctr = scene(seed, objects)
    box = [b / np.float32(s) for b, s in zip(box, STRIDES)]
    maps, scales = [], []
    for kind in (cls, box, ctr):
        scales.append([(rng.uniform(1, 4, len(m)) * abs(m).max() / 2**17).astype(np.float32) for m in kind])
        values = [m.transpose(1, 2, 0)[None] / s for m, s in zip(kind, scales[-1])]
        maps.append([np.ascontiguousarray(np.rint(v).astype(np.int32)) for v in values])
    return maps, scales


def floats(maps: Maps, scales: Maps) -> Maps:
    """The same maps as f32 values."""
    return [[m.astype(np.float32) * s for m, s in zip(kind, row)] for kind, row in zip(maps, scales)]


def published(maps: Maps, scales: Maps) -> Boxes:
    """Boxes by the algorithm of the published host program."""
    boxes, scores, labels = [], [], []
    for stride, *kinds in zip(STRIDES, *floats(maps, scales)):
        cls, box, ctr = (m.reshape(-1, m.shape[3]) for m in kinds)
        best = cls.max(1)
        score = np.sqrt(_sigmoid(best) * _sigmoid(ctr[:, 0]))
        kept = np.flatnonzero(score > np.float32(SCORE_THR))
        row, column = np.divmod(kept, SIZE // stride)
        centre = (np.stack((column, row), 1).astype(np.float32) + np.float32(0.5)) * np.float32(stride)
        distance = box[kept] * np.float32(stride)
        boxes.append(np.concatenate((centre - distance[:, :2], centre + distance[:, 2:]), 1))
        scores.append(score[kept])
        labels.append(cls[kept].argmax(1))
    found = Boxes(np.concatenate(boxes), np.concatenate(scores), np.concatenate(labels))
    sizes = np.concatenate((found.boxes[:, :2], found.boxes[:, 2:] - found.boxes[:, :2]), 1)
    left = np.asarray(cv2.dnn.NMSBoxes(sizes, found.scores, SCORE_THR, IOU_THR), np.int64).reshape(-1)
    return Boxes(*(column[left] for column in found))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def measure(calls: dict[str, Callable[[], Boxes]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median and least CPU time of each call in milliseconds; the calls take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 5):
        for name, call in calls.items():
            start = time.process_time_ns()
            call()
            if number >= 5:  # the first ones warm up
                times[name].append((time.process_time_ns() - start) / 1e6)
    return {name: (statistics.median(row), min(row)) for name, row in times.items()}


def lines_of(seed: int, objects: int, rounds: int) -> list[str]:
    """The table of one scene."""
    maps, scales = quantised(seed, objects)
    values, by_level = floats(maps, scales), list(zip(*scales))
    whole, real = Decoder(RULE), Decoder(RULE)
    calls = {
        "decoder, int32 maps": lambda: whole(*maps, scales=by_level),
        "decoder, float maps": lambda: real(*values),
        "published algorithm": lambda: published(maps, scales),
    }
    results = {name: call() for name, call in calls.items()}
    first, *others = results.values()
    for other in others:
        assert all(np.array_equal(a, b) for a, b in zip(first, other)), "the boxes differ"
    figures = measure(calls, rounds)
    slow = figures["published algorithm"][0]
    title = f"{objects} objects, scene {seed}: {len(first.boxes)} boxes, the same from all"
    return [title] + [
        f"  {name}  median {median:6.3f}  least {least:6.3f} ms CPU  {slow / median:4.1f} x"
        for name, (median, least) in figures.items()
    ]


def main() -> None:
    """Print a table per scene."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--objects", type=int, nargs="+", default=[20, 40])
    parser.add_argument("--scenes", type=int, default=2)
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"))
    parser.add_argument("--out", type=Path, help="also write the lines to this file")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    lines = [
        "python benchmarks/decoder_int32.py",
        f"{args.date}, {ACCELERATORS['cpu'].title()}, one core, numpy {np.__version__}, OpenCV {cv2.__version__}, "
        f"Python {platform.python_version()}",
        f"{SIZE}x{SIZE}, {CLASSES} classes, score above {SCORE_THR}; {args.rounds} calls each, in turn; other load "
        f"of the machine: {os.getloadavg()[0]:.1f} processes on {os.cpu_count()} cores",
    ]
    for objects in args.objects:
        for seed in range(args.scenes):
            lines += lines_of(seed, objects, args.rounds)
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
