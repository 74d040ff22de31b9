"""The performance figures that the vendor's runners print and write beside their results."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fcos_train.deploy.ascend.infer import Clocks, Outcome
from mmcv_overrides.files import write_whole

RULE = "-----------------Performance Summary------------------"
PURE_RULE = "-----------------PureInfer Performance Summary------------------"
END = "-" * len(RULE)


def benchmark_lines(clocks: Clocks, tags: tuple[str, str] = ("infer", "post")) -> list[str]:
    """The five lines of `benchmark`: rates in images per second, latencies in milliseconds.

    `latency` of the first line is that of the whole run; `moduleLatency` is the mean of one part per image. `Interface
    throughputRate` includes only the calls of the model, `throughputRate` of the same line also the preparation of
    its inputs.
    """
    samples, whole = clocks.samples, clocks.end - clocks.start

    def rate(seconds: float) -> str:
        return f"{samples / max(seconds, 1e-9):g}"

    def module(seconds: float) -> str:
        return f"throughputRate: {rate(seconds)}, moduleLatency: {1e3 * seconds / max(samples, 1):g}"

    reading, preparing, computing, writing = (
        sum(part) for part in (clocks.reading, clocks.preparing, clocks.computing, clocks.writing)
    )
    handed = computing + preparing
    return [
        f"[e2e] throughputRate: {rate(whole)}, latency: {1e3 * whole:g}",
        f"[data read] {module(reading)}",
        f"[preprocess] {module(preparing)}",
        f"[{tags[0]}] throughputRate: {rate(handed)}, Interface throughputRate: {rate(computing)}, "
        f"moduleLatency: {1e3 * handed / max(samples, 1):g}",
        f"[{tags[1]}] {module(writing)}",
    ]


def write_benchmark(outcome: Outcome, batch: int, device: int) -> tuple[Path, list[str]]:
    """Write the perf text beside the folder of results; returns its path and the lines for the terminal."""
    path = outcome.folder.parent / f"perf_vision_batchsize_{batch}_device_{device}.txt"
    write_whole(path, "\n".join(benchmark_lines(outcome.clocks)) + "\n")
    return path, [RULE, *benchmark_lines(outcome.clocks, ("inference", "postprocess")), END]


def write_pure(seconds: Sequence[float], batch: int, model: str | Path, device: int, folder: str | Path) -> list[str]:
    """Write the result of pure inference; returns the lines for the terminal."""
    mean = float(np.mean(seconds))
    line = f"ave_throughputRate: {batch / mean:g}samples/s, ave_latency: {1e3 * mean / batch:g}ms"
    path = Path(folder) / f"PureInfer_perf_of_{Path(model).stem}_in_device_{device}.txt"
    write_whole(path, line + "\n")
    where = path if path.is_absolute() else f"./{path}"
    return [f"[INFO] PureInfer result saved in {where}", PURE_RULE, f"[INFO] {line}", "-" * len(PURE_RULE)]


def write_summary(outcome: Outcome, batch: int, arguments: Sequence[str] | None = None) -> tuple[Path, list[str]]:
    """Write `<folder>_summary.json` beside the folder of results, with times in milliseconds.

    Returns:
        its path, and the lines for the terminal.
    """
    compute = _spread(outcome.clocks.computing)
    throughput = 1e3 * batch / compute["mean"] if compute["mean"] else 0.0
    summary: dict[str, Any] = {
        "filesinfo": {
            str(number): {"infiles": infiles, "outfiles": outfiles}
            for number, (infiles, outfiles) in enumerate(outcome.calls)
        },
        "pid": os.getpid(),
        "args": list(sys.argv if arguments is None else arguments),
        "NPU_compute_time": compute,
        # Without a card, preparing and writing the data take the place of the copies between host and device.
        "H2D_latency": _spread(outcome.clocks.preparing),
        "D2H_latency": _spread(outcome.clocks.writing),
        "throughput": throughput,
    }
    path = outcome.folder.with_name(f"{outcome.folder.name}_summary.json")
    write_whole(path, json.dumps(summary, indent=4))
    lines = [f"[INFO] {RULE}"]
    for key in ("NPU_compute_time", "H2D_latency", "D2H_latency"):
        parts = ", ".join(f"{name} = {value:g}" for name, value in summary[key].items() if name != "count")
        lines.append(f"[INFO] {key} (ms): {parts}")
    lines.append(
        f"[INFO] throughput 1000*batchsize.mean({batch})/NPU_compute_time.mean({compute['mean']:g}): {throughput:g}"
    )
    return path, [*lines, f"[INFO] {END}"]


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    """Statistics of durations, in milliseconds."""
    times = 1e3 * np.asarray(seconds if len(seconds) else [0.0])
    return {
        "min": float(times.min()),
        "max": float(times.max()),
        "mean": float(times.mean()),
        "median": float(np.median(times)),
        "percentile(99%)": float(np.percentile(times, 99)),
        "count": len(seconds),
    }
