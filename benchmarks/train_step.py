"""A training step of FCOS: ours in each mode beside mmdet's and torchvision's, same images and boxes.

    python benchmarks/train_step.py                                                     # CPU, 4 x 320x320
    python benchmarks/train_step.py --device cuda --batches 1 2 8 16 32 --size 800 1344 --out benchmarks/results

``--part step`` (default on a CPU) is forward and backward on ready tensors; ``--part train`` (default on an
accelerator) goes from uint8 in host memory to updated weights; ``step_peers.py`` says what each side does there.
mmdet and torchvision run with their defaults and at their best: bf16 autocast, channels_last, pinned memory;
cudnn's choice of algorithms by trial is on for all.

Contestants take turns within every round, so that whatever else the machine does meets all of them; figures are
medians over the rounds, without the warm-up. Columns: TFLOP/s from the floating-point operations of matrix products
and convolutions, forward and backward, counted once for each architecture (frozen layers have no backward); the
share of the device's peak in the contestant's number type (data sheet, or a measured matmul: the JSON says which);
peak memory (accelerators) of the contestant with its weights, without the others'; the loss of the first step, which
must agree between ours and mmdet's.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import statistics
import sys
import time
from datetime import date
from pathlib import Path

from step_peers import CONTESTANTS, FAMILIES, AbsentError, Scene, Step, mmcv_operators  # isort: skip  activates first

import torch
from machine import peak, refuse_simulated
from mmdet.utils import register_all_modules
from torch.utils.flop_counter import FlopCounterMode

from mmcv_overrides import device
from mmcv_overrides.errors import UserError

CONFIG = "fcos/fcos_r50_caffe_fpn_gn-head_4x4_1x_coco"
ORDER = ("mmdet", "torchvision")  # of the columns of ratios, against the fastest of each


class Runner:
    """One contestant on one scene: built, warmed up, timed; what keeps it from running becomes its row."""

    def __init__(self, name: str, scene: Scene, args: argparse.Namespace):
        self.name, self.accelerator, self.steps = name, scene.accelerator, args.steps
        self.row: dict[str, float | str] = {"batch": scene.batch, "contestant": name}
        self.times: list[float] = []
        self.step: Step | None = None
        self._guarded(lambda: self._start(scene, args))

    def _start(self, scene: Scene, args: argparse.Namespace) -> None:
        memory = self.accelerator.module
        before = memory.memory_allocated() if memory else 0
        if memory:
            memory.reset_peak_memory_stats()
        self.step = CONTESTANTS[self.name].build(scene, args.part)
        self.row["loss"] = float(self.step())
        for _ in range(args.warmup - 1):
            self.step()
        self.accelerator.synchronize()
        if memory:
            self.row["peak_mb"] = (memory.max_memory_allocated() - before) / 2**20

    def time(self) -> None:
        if self.step is not None:
            self._guarded(self._time)

    def _time(self) -> None:
        self.accelerator.synchronize()
        start = time.perf_counter()
        for _ in range(self.steps):
            self.step()
        self.accelerator.synchronize()
        self.times.append((time.perf_counter() - start) / self.steps)

    def _guarded(self, work) -> None:
        try:
            work()
        except (AbsentError, UserError) as error:
            self.row["absent"] = str(error)
        except RuntimeError as error:  # out of memory within a capture comes as a second error behind the first
            full = isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in f"{error} {error.__context__}"
            self.row["absent"] = "out of memory" if full else f"failed: {str(error).splitlines()[0]}"
        if "absent" in self.row:
            self.step = None
            gc.collect()
            if self.accelerator.module:
                self.accelerator.module.empty_cache()

    def result(self, flops: float, top: float) -> dict[str, float | str]:
        """The row, with ``flops`` of one image and the peak in TFLOP/s."""
        if "absent" in self.row:
            return self.row
        seconds = statistics.median(self.times)
        rate = self.row["batch"] / seconds
        speed = {"ms": seconds * 1e3, "images_per_s": rate, "tflops": rate * flops / 1e12}
        return {**self.row, **speed, "share_of_peak": speed["tflops"] / top, "rounds_ms": [t * 1e3 for t in self.times]}


def flops_of_an_image(family: str, scene: Scene) -> float:
    """Floating-point operations (two for each multiply-add) of forward and backward."""
    step = FAMILIES[family](scene.of_one_image(), "step")
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def measure(scene: Scene, args: argparse.Namespace, flops: dict[str, float], tops: dict[bool, float]) -> list[dict]:
    """Rows of all contestants at one batch size."""
    runners = [Runner(name, scene, args) for name in args.contestants]
    for _ in range(args.rounds):
        for runner in runners:
            runner.time()
    rows = []
    for runner in runners:
        about = CONTESTANTS[runner.name]
        rows.append(runner.result(flops.get(about.family, 0.0), tops.get(about.half, 1.0)))
    return rows


def table(rows: list[dict]) -> str:
    """Rows of one batch size as text."""
    ran = [row for row in rows if "ms" in row]
    bases = {f"x {row['contestant']}": row["ms"] for row in ran if row["contestant"] in ("mmdet fp32", "mmdet bf16")}
    for family in ORDER:
        times = [row["ms"] for row in ran if row["contestant"].startswith(family)]
        if times:
            bases[f"x {family} best"] = min(times)
    head = f"{'contestant':<31}{'ms':>9}{'images/s':>10}{'TFLOP/s':>9}{'of peak':>9}{'MB':>8}{'loss':>9}"
    lines = [head + "".join(f"{name:>20}" for name in bases)]
    for row in rows:
        if "absent" in row:
            lines.append(f"{row['contestant']:<31}{row['absent']}")
            continue
        memory = f"{row['peak_mb']:.0f}" if "peak_mb" in row else ""
        lines.append(
            f"{row['contestant']:<31}{row['ms']:>9.1f}{row['images_per_s']:>10.2f}{row['tflops']:>9.2f}"
            f"{row['share_of_peak']:>9.1%}{memory:>8}{row['loss']:>9.4f}"
            + "".join(f"{base / row['ms']:>20.2f}" for base in bases.values())
        )
    return "\n".join(lines)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "npu"))
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--batches", type=int, nargs="+", default=[4], metavar="B", help="one after another")
    parser.add_argument("--size", type=int, nargs=2, default=(320, 320), metavar=("H", "W"), help="multiples of 32")
    parser.add_argument("--part", choices=("step", "train"), help="default: step on a CPU, train elsewhere")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="in a round, without waiting between them; default: CPU 1, else 10")
    parser.add_argument("--warmup", type=int, help="steps; default: CPU 1, else 5")
    parser.add_argument("--threads", type=int, help="default: what torch takes")
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS, metavar="NAME")
    parser.add_argument("--out", type=Path, help="folder for DATE-train_step-DEVICE-torchVERSION.json")
    args = parser.parse_args(argv)
    small = args.device == "cpu"
    args.part = args.part or ("step" if small else "train")
    args.steps, args.warmup = args.steps or (1 if small else 10), args.warmup or (1 if small else 5)
    if min(*args.batches, args.rounds, args.steps, args.warmup) < 1 or any(
        side % 32 or side < 32 for side in args.size
    ):
        parser.error("--batches, --rounds, --steps and --warmup start at 1; --size takes multiples of 32")
    args.size = tuple(args.size)
    return args


def run(args: argparse.Namespace) -> list[dict]:
    """Rows of all batch sizes, printed and written."""
    accelerator, _ = device.pick(args.device)
    refuse_simulated(accelerator)
    device.use(accelerator)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    register_all_modules(init_default_scope=True)
    scenes = [Scene(args.config, accelerator, batch, args.size) for batch in args.batches]
    chosen = [CONTESTANTS[name] for name in args.contestants]
    peaks = {half: peak(accelerator, half) for half in {c.half for c in chosen}}
    flops: dict[str, float] = {}
    for family in {c.family for c in chosen}:
        try:
            flops[family] = flops_of_an_image(family, scenes[0])
        except AbsentError:  # its rows say why
            continue
    about = {
        "device": accelerator.title(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        "config": args.config,
        "part": args.part,
        "size": list(args.size),
        "rounds": args.rounds,
        "steps": args.steps,
        "mmcv operators": mmcv_operators(),
        "GFLOP of an image": {family: round(count / 1e9, 3) for family, count in flops.items()},
        "peak TFLOP/s": {"bf16" if half else "fp32": (round(top, 4), why) for half, (top, why) in peaks.items()},
    }
    print("\n".join(f"{k}: {v}" for k, v in about.items()))
    rows = []
    for scene in scenes:
        found = measure(scene, args, flops, {half: top for half, (top, _) in peaks.items()})
        print(f"\nbatch {scene.batch}\n{table(found)}", flush=True)
        rows += found
        gc.collect()
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        title = re.sub(r"[^A-Za-z0-9]+", "-", accelerator.title()).strip("-")
        path = args.out / f"{about['date']}-train_step-{title}-torch{torch.__version__}.json"
        path.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
        print(f"\nwritten: {path}")
    return rows


def main(argv: list[str] | None = None) -> int:
    try:
        rows = run(parse(argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return int(any(str(row.get("absent")).startswith("failed") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
