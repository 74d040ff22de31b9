"""Post-processing of FCOS maps on one core: the product's decoder compared with a straightforward per-level one.

python benchmarks/decoder.py [--out benchmarks/results/decoder.txt]

512 x 512 pixels, 80 classes, strides 8 to 128: 5,456 points, 436,480 class logits. The maps are realistic: the
background has the logits of a trained head (normal, mean -5.5, standard deviation 0.7; the prior of 0.01 is at -4.6),
so that it stays below the threshold of 0.05. Each of 40 objects raises the logits of some points on the level of its
size, most in its class, some weakly in a second class; their boxes are those of the object with a few pixels of noise.

The other implementation is the plain definition, level by level: sigmoid of everything, threshold, top-k, decode;
then suppression class by class. Both use numpy and are called in turn; each figure is a median.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np

from fcos_train.deploy.decoder import Boxes, Decoder, DecodeRule
from mmcv_overrides.device import ACCELERATORS

SIZE, CLASSES, STRIDES, OBJECTS = 512, 80, (8, 16, 32, 64, 128), 40


def scene(seed: int = 0, objects: int = OBJECTS) -> tuple[list, list, list]:
    """Class logits, distances in pixels and centerness logits of one image, each [channels, H, W] f32 by level."""
    rng = np.random.default_rng(seed)
    sides = [SIZE // s for s in STRIDES]
    cls = [rng.normal(-5.5, 0.7, (CLASSES, n, n)).astype(np.float32) for n in sides]
    cls = [np.minimum(c, np.float32(-3.2)) for c in cls]
    box = [rng.uniform(4, 8 * s, (4, n, n)).astype(np.float32) for s, n in zip(STRIDES, sides)]
    ctr = [rng.normal(-1, 1, (1, n, n)).astype(np.float32) for n in sides]
    for _ in range(objects):
        size = np.exp(rng.uniform(np.log(16), np.log(320), 2))
        centre = rng.uniform(size / 2, SIZE - size / 2) if (size < SIZE).all() else np.full(2, SIZE / 2)
        label, second = rng.integers(CLASSES, size=2)
        level = int(np.clip(np.log2(size.max() / 64) + 0.5, 0, 4))
        stride, n = STRIDES[level], sides[level]
        at = (np.arange(n) + 0.5) * stride
        x, y = np.meshgrid(at, at)
        edges = (
            np.stack((x - centre[0], y - centre[1], centre[0] - x, centre[1] - y)) + np.tile(size / 2, 2)[:, None, None]
        )
        inside = (edges.min(0) > 0) & (abs(x - centre[0]) < 1.5 * stride) & (abs(y - centre[1]) < 1.5 * stride)
        rows, columns = np.nonzero(inside)
        k = len(rows)
        cls[level][label, rows, columns] = rng.normal(0.5, 1.2, k)
        weak = rng.random(k) < 0.3
        cls[level][second, rows[weak], columns[weak]] = rng.normal(-2.5, 0.5, int(weak.sum()))
        box[level][:, rows, columns] = np.maximum(edges[:, rows, columns] + rng.normal(0, 2, (4, k)), 0)
        ctr[level][0, rows, columns] = rng.normal(1, 0.7, k)
    return cls, box, ctr


def per_level(
    cls: list, box: list, ctr: list, score_thr: float = 0.05, nms_pre: int = 1000, iou_thr: float = 0.5
) -> Boxes:
    """The plain definition (mmdet's FCOS): all steps level by level, then suppression class by class."""
    boxes, scores, labels = [], [], []
    for stride, logits, distance, centerness in zip(STRIDES, cls, box, ctr):
        height, width = logits.shape[1:]
        prob = 1 / (1 + np.exp(-logits.reshape(CLASSES, -1).T))
        factor = 1 / (1 + np.exp(-centerness.reshape(-1)))
        distance = distance.reshape(4, -1).T
        y, x = np.mgrid[:height, :width].astype(np.float32)
        points = (np.stack((x.reshape(-1), y.reshape(-1)), 1) + np.float32(0.5)) * stride
        decoded = np.concatenate((points - distance[:, :2], points + distance[:, 2:]), 1)
        decoded = np.clip(decoded, 0, SIZE)
        place, label = np.nonzero(prob > np.float32(score_thr))
        order = np.argsort(-prob[place, label], kind="stable")[:nms_pre]
        place, label = place[order], label[order]
        boxes.append(decoded[place])
        scores.append(prob[place, label] * factor[place])
        labels.append(label)
    boxes, scores, labels = map(np.concatenate, (boxes, scores, labels))
    kept = []
    for label in np.unique(labels):
        rest = np.flatnonzero(labels == label)
        rest = rest[np.argsort(-scores[rest], kind="stable")]
        while len(rest):
            kept.append(rest[0])
            rest = rest[1:][_iou_of_one(boxes[rest[0]], boxes[rest[1:]]) <= np.float32(iou_thr)]
    kept = np.array(kept, int)
    kept = kept[np.argsort(-scores[kept], kind="stable")][:100]
    return Boxes(boxes[kept], scores[kept], labels[kept])


def _iou_of_one(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    size = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    inter = np.maximum(size, 0).prod(1)
    return inter / ((box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - inter)


def measure(maps: tuple, thr: float, rounds: int) -> str:
    """Time both implementations on the maps of one image; returns a line with the medians in milliseconds."""
    decoder = Decoder(DecodeRule(score_thr=thr))
    ours = lambda: decoder(*maps, image_size=(SIZE, SIZE))  # noqa: E731
    plain = lambda: per_level(*maps, score_thr=thr)  # noqa: E731
    a, b = ours(), plain()
    assert all(np.array_equal(x, y) for x, y in zip(a, b)), "the two do not agree"
    times = {ours: [], plain: []}
    for _ in range(rounds):
        for call in times:
            start = time.perf_counter()
            call()
            times[call].append(1e3 * (time.perf_counter() - start))
    fast, slow = (statistics.median(times[call]) for call in (ours, plain))
    least = min(times[ours])
    candidates = sum(int((1 / (1 + np.exp(-c)) > thr).sum()) for c in maps[0])
    return (
        f"score_thr {thr:4}: {candidates:5} candidates, {len(a.boxes):3} boxes | "
        f"decoder {fast:6.3f} ms (fastest {least:.3f}) | per level {slow:6.3f} ms | {slow / fast:5.1f} x | "
        "boxes identical"
    )


def main() -> None:
    """Print a line per scene and threshold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--date", default=time.strftime("%Y-%m-%d"))
    parser.add_argument("--out", type=Path, help="also write the lines to this file")
    args = parser.parse_args()
    lines = [
        "python benchmarks/decoder.py",
        f"{args.date}, {ACCELERATORS['cpu'].title()}, one core, "
        f"numpy {np.__version__}, Python {platform.python_version()}",
        f"{SIZE}x{SIZE}, {CLASSES} classes, {sum((SIZE // s) ** 2 for s in STRIDES)} points, {OBJECTS} objects; "
        f"medians of {args.rounds} calls each, in turn; other load of the machine: {os.getloadavg()[0]:.1f} processes",
    ]
    for seed in range(3):
        maps = scene(seed)
        lines += [f"scene {seed}, {measure(maps, thr, args.rounds)}" for thr in (0.05, 0.5)]
    lines.append(f"120 objects, {measure(scene(0, 120), 0.05, args.rounds)}")
    print("\n".join(lines))
    if args.out:
        args.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
