"""Detection with GroupNorm and with BatchNorm in the head of FCOS R-50: seconds per image, side by side.

    python benchmarks/gn_vs_bn.py                                                # any device, 800 x 1088
    python benchmarks/gn_vs_bn.py --device cpu --img FOLDER --images 4 --rounds 3 --out benchmarks/results

The experiment of the guides that recommend BatchNorm for deployment, made sound. Both models have the same weights:
the BatchNorm model takes every convolution, scale and bias of the other one, and estimates its statistics per level on
the images, so that its activations have ordinary sizes. An image is timed from uint8 in host memory to boxes in host
memory, which is what a user waits for; the device is synchronised before and after. The models take turns on every
image, the first one alternating, so that other load of the machine meets both; the first images, which set up memory
and choose algorithms, are left out.

The weights are random unless --weights gives a checkpoint of the GroupNorm config. Random scores mean nothing, so the
threshold is 1 then: neither model finds a box, and the time that boxes take is missing from both. CPU seconds are those
of the process, all threads together; on an accelerator they tell what the host does.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Iterator
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import mmcv_overrides

mmcv_overrides.activate()

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from machine import refuse_simulated  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from torch import nn  # noqa: E402

from fcos_train.config.load import load_config  # noqa: E402
from fcos_train.data.shapes import draw_image  # noqa: E402
from fcos_train.infer.sources import open_source  # noqa: E402
from fcos_train.start import start  # noqa: E402
from mmcv_overrides import checkpoint, device  # noqa: E402
from mmcv_overrides.device import Accelerator  # noqa: E402
from mmcv_overrides.errors import UserError  # noqa: E402

CONFIG = "fcos/fcos_r50_caffe_fpn_gn-head_4x4_1x_coco"
NAMES = ("GN", "BN")
PUBLISHED = {"2080Ti": (69.6, 62.8), "CPU": (1011.2, 959.6)}  # ms per image of AdelaiDet's R-50, 1000 images
BATCH_NORM = {"type": "BN", "requires_grad": True}


def build(args: argparse.Namespace) -> dict[str, nn.Module]:
    """Both models with the same weights, on the CPU, in evaluation mode; statistics of the BatchNorm are missing."""
    start()
    register_all_modules(init_default_scope=True)
    torch.manual_seed(0)
    MMLogger.get_current_instance().setLevel("WARNING")  # init_weights reports every tensor
    settings = load_config(args.config).model
    settings.backbone.init_cfg = None
    if not args.weights:
        settings.test_cfg.score_thr = 1.0
    if settings.bbox_head.get("norm_cfg", {}).get("type") != "GN":
        raise UserError(f"--config {args.config}: its head has no GroupNorm to compare with")
    group = MODELS.build(settings)
    group.init_weights()
    if args.weights:
        checkpoint.load_weights(group, checkpoint.load(args.weights, map_location="cpu"), print)
    settings.bbox_head.norm_cfg = BATCH_NORM
    settings.bbox_head.type = "FixedShapeFCOSHead"  # BatchNorm per level
    batch = MODELS.build(settings)
    same = {name.replace(".gn.", ".bn."): value for name, value in group.state_dict().items()}
    fit = batch.load_state_dict(same, strict=False)
    odd = [key for key in fit.missing_keys if not re.search(r"\.(running_mean|running_var|num_batches_tracked)$", key)]
    if odd or fit.unexpected_keys:
        raise UserError(f"--config {args.config}: the models differ beyond their norms: {[*odd, *fit.unexpected_keys]}")
    return {"GN": group.eval(), "BN": batch.eval()}


@torch.no_grad()
def estimate_statistics(model: Any, batches: list[dict]) -> None:
    """Set the running statistics of the head to the mean over the batches, level by level."""
    norms = [module for module in model.bbox_head.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # a plain mean
        norm.reset_running_stats()
        norm.train()
    for batch in batches:
        model.bbox_head(model.extract_feat(model.data_preprocessor(batch)["inputs"]))
    model.eval()


def pictures(args: argparse.Namespace) -> Iterator[np.ndarray]:
    """Images u8 [H, W, 3] in BGR of the size asked for: of a folder, or generated."""
    height, width = args.shape
    if args.img:
        for frame in open_source(args.img):
            yield cv2.resize(frame.image, (width, height))
    else:
        for seed in range(args.images):
            yield draw_image(np.random.default_rng(seed), (width, height))[0]


def as_batch(image: np.ndarray) -> dict:
    """What the data loader would give for one image."""
    size = image.shape[:2]
    meta = {"img_shape": size, "ori_shape": size, "pad_shape": size, "scale_factor": (1.0, 1.0), "img_id": 0}
    return {
        "inputs": [torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))],
        "data_samples": [DetDataSample(metainfo=meta)],
    }


class Clock:
    """Times of one model."""

    def __init__(self, model: Any, accelerator: Accelerator) -> None:
        self.model, self.accelerator = model, accelerator
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.boxes = 0

    @torch.inference_mode()
    def run(self, batch: dict, count: bool = True) -> None:
        """Detect in one image; ``count``: record its time."""
        self.accelerator.synchronize()
        wall, cpu = time.perf_counter(), time.process_time()
        boxes = self.model.test_step(dict(batch))[0].pred_instances.bboxes.cpu()
        self.accelerator.synchronize()
        if count:
            self.wall.append(time.perf_counter() - wall)
            self.cpu.append(time.process_time() - cpu)
            self.boxes += len(boxes)

    def row(self) -> dict[str, float]:
        """Figures over all images and rounds; seconds, and milliseconds of an image."""
        return {
            "images": len(self.wall),
            "total_s": sum(self.wall),
            "average_s": statistics.mean(self.wall),
            "median_ms": 1e3 * statistics.median(self.wall),
            "least_ms": 1e3 * min(self.wall),
            "cpu_average_s": statistics.mean(self.cpu),
            "cpu_median_ms": 1e3 * statistics.median(self.cpu),
            "boxes": self.boxes / len(self.wall),
        }


def measure(models: dict[str, nn.Module], batches: list[dict], accelerator: Accelerator, args: Any) -> dict[str, dict]:
    """Rows of both models."""
    clocks = {name: Clock(model, accelerator) for name, model in models.items()}
    for batch in islice(batches, args.warmup):
        for clock in clocks.values():
            clock.run(batch, count=False)
    turn = 0
    for _ in range(args.rounds):
        for batch in batches:
            for name in NAMES if turn % 2 == 0 else NAMES[::-1]:
                clocks[name].run(batch)
            turn += 1
    return {name: clock.row() for name, clock in clocks.items()}


def table(rows: dict[str, dict], title: str) -> str:
    """The rows beside the published figures."""
    lines = [
        f"{'head':<6}{'images':>8}{'total s':>10}{'average s':>11}{'median ms':>11}{'least ms':>10}"
        f"{'CPU s':>9}{'median CPU ms':>15}{'boxes':>7}"
    ]
    for name, row in rows.items():
        lines.append(
            f"{name:<6}{row['images']:>8}{row['total_s']:>10.2f}{row['average_s']:>11.4f}{row['median_ms']:>11.1f}"
            f"{row['least_ms']:>10.1f}{row['cpu_average_s']:>9.3f}{row['cpu_median_ms']:>15.1f}{row['boxes']:>7.1f}"
        )
    lines += ["", f"{'ms per image':<44}{'GN':>9}{'BN':>9}{'GN takes longer by':>20}"]
    own = {
        f"{title}, median": tuple(rows[name]["median_ms"] for name in NAMES),
        f"{title}, median CPU time": tuple(rows[name]["cpu_median_ms"] for name in NAMES),
    }
    for name, (group, batch) in {**own, **{f"published, {k}": v for k, v in PUBLISHED.items()}}.items():
        lines.append(f"{name:<44}{group:>9.1f}{batch:>9.1f}{group / batch - 1:>20.1%}")
    return "\n".join(lines)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or npu")
    parser.add_argument("--config", default=CONFIG, help="an FCOS with GroupNorm in the head")
    parser.add_argument("--weights", type=Path, help="checkpoint of that config; default: random")
    parser.add_argument("--shape", type=int, nargs=2, default=(800, 1088), metavar=("H", "W"), help="multiples of 32")
    parser.add_argument("--img", help="folder or pattern of images, which are stretched; default: generated")
    parser.add_argument("--images", type=int, metavar="N", help="at most; default: CPU 4, else 100")
    parser.add_argument("--rounds", type=int, default=3, help="passes through the images")
    parser.add_argument("--warmup", type=int, default=2, help="images before the first that counts")
    parser.add_argument("--threads", type=int, help="default: what torch takes")
    parser.add_argument("--out", type=Path, help="folder for DATE-gn_vs_bn-DEVICE-torchVERSION.json and .txt")
    args = parser.parse_args(argv)
    if args.images is not None and args.images < 1 or args.rounds < 1 or args.warmup < 1 or (args.threads or 1) < 1:
        parser.error("--images, --rounds, --warmup and --threads start at 1")
    if any(side % 32 or side < 32 for side in args.shape):
        parser.error(f"--shape {args.shape[0]} {args.shape[1]}: give multiples of 32")
    return args


def run(args: argparse.Namespace) -> dict:
    """The report, printed and written."""
    accelerator, _ = device.pick(args.device)
    refuse_simulated(accelerator)
    device.use(accelerator)
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    args.images = args.images or (4 if accelerator.name == "cpu" else 100)
    batches = [as_batch(image) for image in islice(pictures(args), args.images)]
    models = {name: model.to(accelerator.name) for name, model in build(args).items()}
    estimate_statistics(models["BN"], batches[:8])
    title = accelerator.title()
    report = {
        "device": title,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
        "config": args.config,
        "weights": str(args.weights or "random"),
        "shape": list(args.shape),
        "images": args.img or "generated",
        "rounds": args.rounds,
    }
    head = "\n".join(f"{key}: {value}" for key, value in report.items())
    rows = measure(models, batches, accelerator, args)
    text = f"{head}\n\n{table(rows, title)}"
    print(text)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-")
        path = args.out / f"{report['date']}-gn_vs_bn-{name}-torch{torch.__version__}.json"
        path.write_text(json.dumps({**report, "rows": rows, "published_ms": PUBLISHED}, indent=1) + "\n")
        path.with_suffix(".txt").write_text(text + "\n")
        print(f"\nwritten: {path} and .txt")
    return {**report, "rows": rows}


def main(argv: list[str] | None = None) -> int:
    try:
        run(parse(argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
