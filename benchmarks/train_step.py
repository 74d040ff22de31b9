"""Forward and backward of FCOS: our step in each mode beside mmdet's, same weights, images and boxes.

    python benchmarks/train_step.py --device cpu --batch 4 --size 320 320 --rounds 5

Contestants take turns within every round, so that whatever else the machine does meets all of them; figures are
medians over the rounds, without the warm-up. The optimizer is left out: it is the same for all.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from contextlib import nullcontext
from datetime import date
from pathlib import Path

import mmcv_overrides

mmcv_overrides.activate()

import torch  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

import fcos_train.models  # noqa: E402, F401
from fcos_train.engine.config import load_config  # noqa: E402
from fcos_train.models.frozen_bn import fold_frozen_bn  # noqa: E402
from fcos_train.models.group_norm import quick_group_norm  # noqa: E402

CONFIG = "fcos/fcos_r50_caffe_fpn_gn-head_4x4_1x_coco"
# name -> (our head, 16 bit, channels_last)
CONTESTANTS = {
    "mmdet fp32": (False, False, False),
    "mmdet bf16": (False, True, False),
    "mmdet bf16 channels_last": (False, True, True),
    "eager fp32": (True, False, True),
    "eager bf16": (True, True, True),
}


class Contestant:
    """One model and the way it runs a step."""

    def __init__(self, name: str, weights: dict, args: argparse.Namespace):
        ours, self.half, self.dense = CONTESTANTS[name]
        self.device = args.device
        self.model = build(args, ours)
        self.model.load_state_dict(weights)
        self.model.to(args.device)
        if self.dense:
            self.model.to(memory_format=torch.channels_last)
        if ours:
            fold_frozen_bn(self.model)
            quick_group_norm(self.model)

    def step(self, images: torch.Tensor, samples: list[DetDataSample]) -> float:
        """One forward and backward. Returns the loss."""
        if self.dense:
            images = images.contiguous(memory_format=torch.channels_last)
        for parameter in self.model.parameters():
            parameter.grad = None
        with torch.autocast(self.device, dtype=torch.bfloat16) if self.half else nullcontext():
            losses = self.model.loss(images, samples)
        total = sum(v if torch.is_tensor(v) else sum(v) for k, v in losses.items() if "loss" in k)
        total.backward()
        return total.detach()


def build(args: argparse.Namespace, ours: bool) -> torch.nn.Module:
    model = copy.deepcopy(load_config(args.config).model)
    model.backbone.init_cfg = None
    if ours:
        model.bbox_head.type = "Static" + model.bbox_head.type
    return MODELS.build(model).train()


def make_batch(args: argparse.Namespace) -> tuple[torch.Tensor, list[DetDataSample]]:
    """Random images [B, 3, H, W], seven objects of 10 to 40 % of the image each (the mean of COCO is 7.3)."""
    generator = torch.Generator().manual_seed(0)
    height, width = args.size
    images = torch.randn(args.batch, 3, height, width, generator=generator).to(args.device)
    samples, scale = [], torch.tensor([width, height])
    for _ in range(args.batch):
        near, side = torch.rand(7, 2, generator=generator) * 0.6, torch.rand(7, 2, generator=generator) * 0.3 + 0.1
        shape = {key: (height, width) for key in ("img_shape", "pad_shape", "ori_shape", "batch_input_shape")}
        sample = DetDataSample(metainfo=shape)
        boxes, labels = torch.cat([near, near + side], 1) * scale.repeat(2), torch.randint(0, 80, (7,), generator=generator)
        sample.gt_instances = InstanceData(bboxes=boxes.to(args.device), labels=labels.to(args.device))
        samples.append(sample)
    return images, samples


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measure(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Median ms per step, images/s, last loss and peak memory (CUDA) of every contestant."""
    weights = build(args, False).state_dict()
    batch = make_batch(args)
    runs = {name: Contestant(name, weights, args) for name in args.contestants}
    losses = {name: [float(run.step(*batch)) for _ in range(args.warmup)][-1] for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    peaks = dict.fromkeys(runs, 0.0)
    for _ in range(args.rounds):
        for name, run in runs.items():
            if args.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            synchronize(args.device)
            start = time.perf_counter()
            run.step(*batch)
            synchronize(args.device)
            times[name].append(time.perf_counter() - start)
            if args.device == "cuda":
                peaks[name] = torch.cuda.max_memory_allocated() / 2**20
    return {
        name: {
            "ms": statistics.median(values) * 1e3,
            "images_per_s": args.batch / statistics.median(values),
            "loss": losses[name],
            "peak_mb": peaks[name],
        }
        for name, values in times.items()
    }


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def table(results: dict[str, dict[str, float]]) -> str:
    bases = [name for name in ("mmdet fp32", "mmdet bf16") if name in results]
    lines = [f"{'contestant':<26}{'ms':>9}{'images/s':>10}{'loss':>11}" + "".join(f"{'x ' + b:>14}" for b in bases)]
    for name, row in results.items():
        ratios = "".join(f"{results[base]['ms'] / row['ms']:>14.2f}" for base in bases)
        lines.append(f"{name:<26}{row['ms']:>9.0f}{row['images_per_s']:>10.2f}{row['loss']:>11.4f}{ratios}")
    return "\n".join(lines)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--config", default=CONFIG)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=(320, 320), metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--threads", type=int, help="default: what torch takes")
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS, metavar="NAME")
    parser.add_argument("--out", type=Path, help="folder for <date>-train_step-<device>.json")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    register_all_modules(init_default_scope=True)
    torch.manual_seed(0)
    results = measure(args)
    about = {
        "device": device_name(args.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        "config": args.config,
        "batch": args.batch,
        "size": list(args.size),
        "rounds": args.rounds,
    }
    print(", ".join(f"{k} {v}" for k, v in about.items()))
    print(table(results))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        path = args.out / f"{about['date']}-train_step-{args.device}.json"
        path.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
