"""Train a model on generated shapes with our step and with mmdet's heads and batches, and compare the results.

    python benchmarks/training_curves.py --seeds 0 1 2 --jobs 2 --out benchmarks/results

Both start from the same weights and see the same images in the same order, which is checked; otherwise they differ by
rounding alone. The result is the difference in the final mAP. With ``--control``, a third run shows how much of it
rounding can explain: mmdet's, from weights changed in their last bit. The task is easy (one kind of shape), so that 200
steps from random weights reach a meaningful mAP. Every run is a process of its own. No times are measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import mmcv_overrides

mmcv_overrides.activate()

import torch  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.hooks import Hook  # noqa: E402
from mmengine.registry import HOOKS  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from fcos_train.config.load import load_config  # noqa: E402
from fcos_train.config.options import TrainOptions  # noqa: E402
from fcos_train.data.shapes import CLASSES, make_shapes  # noqa: E402
from fcos_train.engine.run import train  # noqa: E402
from mmcv_overrides import device  # noqa: E402
from mmcv_overrides.errors import UserError  # noqa: E402

MODES = ("eager", "mmdet")
CONTROL = "nudged"  # mmdet's step from other roundings of the same weights
EPOCH = 25  # steps
AIM = 0.02  # largest difference in mAP


@HOOKS.register_module()
class Recorder(Hook):
    """Records a digest of the initial weights, image ids and losses of every step, and the last evaluation."""

    priority = "VERY_HIGH"  # sees the weights before the fixed-shape step lays them out

    def __init__(self, file: str, nudge: bool = False) -> None:
        self.file, self.nudge = Path(file), nudge
        self.record: dict[str, Any] = {"images": [], "losses": []}

    def before_train(self, runner: Runner) -> None:
        """Hash the initial weights; change them in their last bit for a control run."""
        digest = hashlib.sha256()
        for name, value in sorted(runner.model.state_dict().items()):
            digest.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        self.record["weights"] = digest.hexdigest()
        if self.nudge:
            for weight in runner.model.parameters():
                weight.data.mul_(1 + torch.finfo(weight.dtype).eps)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: dict | None = None
    ) -> None:
        """Record image ids and losses."""
        assert data_batch is not None and outputs is not None
        self.record["images"].append([sample.img_id for sample in data_batch["data_samples"]])
        self.record["losses"].append({name: value.item() for name, value in outputs.items() if "loss" in name})

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Record the metrics without their prefix."""
        assert metrics is not None
        self.record["metrics"] = {name.rpartition("/")[2]: value for name, value in metrics.items()}

    def after_train(self, runner: Runner) -> None:
        """Write the record."""
        self.file.write_text(json.dumps(self.record))


def config(args: argparse.Namespace) -> Config:
    """``fcos_r18_fpn_shapes`` on images of ``args.size``, trained for ``args.iters`` steps and evaluated at the end."""
    cfg = load_config("fcos/fcos_r18_fpn_shapes")
    if args.head == "fsaf":
        _fsaf(cfg)
    epochs = args.iters // EPOCH
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(batch_size=args.batch, num_workers=0, persistent_workers=False)
        for step in loader.dataset.pipeline:
            if step.type == "Resize":
                step.scale = tuple(args.size)
            if step.type == "RandomFlip":
                step.update(prob=0.5, direction="horizontal")
    cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    cfg.param_scheduler[0].update(end=args.iters // 10)
    cfg.param_scheduler[1].update(T_max=epochs, end=epochs)
    cfg.optim_wrapper.optimizer.lr = args.lr
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", interval=-1)
    return cfg


def _fsaf(cfg: Config) -> None:
    """Replace FCOS's head and assignment by those of FSAF, equally wide and deep."""
    shipped, ours = load_config("fsaf/fsaf_r50_fpn_1x_coco").model, cfg.model.bbox_head
    head = shipped.bbox_head
    head.update({key: ours[key] for key in ("in_channels", "feat_channels", "stacked_convs", "norm_cfg")})
    # not update(), which would keep the keys of FCOS's head
    cfg.model.type, cfg.model.bbox_head, cfg.model.train_cfg = "FSAF", head, shipped.train_cfg


def one(args: argparse.Namespace) -> None:
    """Train once, in this process."""
    mode, seed = args.one
    place = args.work_dir / f"{mode}-{seed}"
    place.mkdir(parents=True, exist_ok=True)
    cfg = config(args)
    cfg.custom_hooks = [
        *(cfg.get("custom_hooks") or []),
        dict(type="Recorder", file=str(place / "record.json"), nudge=mode == CONTROL),
    ]
    cfg.dump(place / "run.py")
    options = TrainOptions(
        config=str(place / "run.py"),
        data_path=str(args.work_dir / "shapes"),
        work_dir=str(place),
        device=args.device,
        opt_level=args.opt_level,
        step_mode="mmdet" if mode == CONTROL else mode,
        seed=int(seed),
        auto_lr=False,
        check=False,
    )
    train(options)


def run_all(args: argparse.Namespace) -> dict[tuple[str, int], dict]:
    """Run every mode with every seed; returns (mode, seed) -> what :class:`Recorder` wrote.

    Raises:
        RuntimeError: a run failed.
    """

    def run(pair: tuple[str, int]) -> dict:
        flags = [
            word
            for name in ("work_dir", "device", "opt_level", "head", "iters", "batch", "lr")
            for word in (_flag(name), getattr(args, name))
        ]
        command = [sys.executable, __file__, "--one", *pair, *flags, "--size", *args.size]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{pair} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        record = json.loads((args.work_dir / f"{pair[0]}-{pair[1]}" / "record.json").read_text())
        print(f"{pair[0]} seed {pair[1]}: mAP {record['metrics']['bbox_mAP']:.4f}", flush=True)
        return record

    modes = (*MODES, CONTROL) if args.control else MODES
    pairs = [(mode, seed) for seed, mode in product(args.seeds, modes)]
    with ThreadPoolExecutor(args.jobs) as pool:
        return dict(zip(pairs, pool.map(run, pairs)))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def check_alike(records: dict[tuple[str, int], dict], seeds: list[int]) -> None:
    """Raises RuntimeError if the runs of a seed did not start from the same weights or see the same images."""
    for seed in seeds:
        runs = [record for (_, other), record in records.items() if other == seed]
        for what in ("weights", "images"):
            if any(run[what] != runs[0][what] for run in runs):
                raise RuntimeError(f"seed {seed}: the runs differ in their {what}; their results cannot be compared")


def table(records: dict[tuple[str, int], dict], seeds: list[int]) -> tuple[str, dict]:
    """Returns the comparison as text, and its figures."""
    lines = [
        f"{'seed':<6}{'mAP ours':>10}{'mmdet':>9}{'diff':>9}{'mAP50 ours':>12}{'mmdet':>9}"
        f"{'loss ours':>11}{'mmdet':>9}{'first diff':>12}"
    ]
    if (CONTROL, seeds[0]) in records:
        lines[0] += f"{'mmdet nudged':>14}{'diff':>9}"
    differences, controls = {}, {}
    for seed in seeds:
        ours, theirs = (records[mode, seed] for mode in MODES)
        a, b = ours["metrics"], theirs["metrics"]
        last = [statistics.mean(row["loss"] for row in run["losses"][-10:]) for run in (ours, theirs)]
        first = abs(ours["losses"][0]["loss"] / theirs["losses"][0]["loss"] - 1)
        differences[seed] = a["bbox_mAP"] - b["bbox_mAP"]
        lines.append(
            f"{seed:<6}{a['bbox_mAP']:>10.4f}{b['bbox_mAP']:>9.4f}{differences[seed]:>+9.4f}{a['bbox_mAP_50']:>12.4f}"
            f"{b['bbox_mAP_50']:>9.4f}{last[0]:>11.4f}{last[1]:>9.4f}{first:>12.1e}"
        )
        control = records.get((CONTROL, seed))
        if control:
            controls[seed] = control["metrics"]["bbox_mAP"] - b["bbox_mAP"]
            lines[-1] += f"{control['metrics']['bbox_mAP']:>14.4f}{controls[seed]:>+9.4f}"
    figures: dict[str, Any] = {"mAP_difference": differences, **_spread(differences)}
    lines.append("ours - mmdet: mean {mean:+.4f}, largest {largest:.4f}; the aim is ".format(**figures) + str(AIM))
    if controls:
        figures["control"] = {"mAP_difference": controls, **_spread(controls)}
        lines.append("mmdet nudged - mmdet: mean {mean:+.4f}, largest {largest:.4f}".format(**figures["control"]))
    return "\n".join(lines), figures


def _spread(differences: dict[int, float]) -> dict[str, float]:
    return {"mean": statistics.mean(differences.values()), "largest": max(map(abs, differences.values()))}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Raises:
        UserError: ``--iters`` is no multiple of the steps of an epoch.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--head", default="fcos", choices=("fcos", "fsaf"))
    add("--device", default="auto")
    add("--opt-level", default="O0", choices=("O0", "O1", "bf16"))
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--iters", type=int, default=200, help=f"a multiple of {EPOCH}")
    add("--batch", type=int, default=16)
    add("--lr", type=float, default=0.004)
    add("--size", type=int, nargs=2, default=(192, 144), metavar=("W", "H"))
    add("--classes", nargs="+", default=["circle"], help=f"of {', '.join(CLASSES)}, cross")
    add(
        "--control",
        action="store_true",
        help="add a third run for each seed: mmdet's from weights changed in their last bit",
    )
    add("--val", type=int, default=200, help="images to evaluate on")
    add("--jobs", type=int, default=1, help="runs at a time")
    add("--work-dir", type=Path, help="default: a temporary folder")
    add("--out", type=Path, help="folder for <date>-training_curves-<head>.json and .txt")
    add("--one", nargs=2, metavar=("MODE", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.iters < EPOCH or args.iters % EPOCH:
        raise UserError(f"--iters {args.iters}: must be a multiple of {EPOCH}, the steps of an epoch")
    return args


def compare(args: argparse.Namespace) -> None:
    """Generate the images, run everything, print the comparison and write it if asked to."""
    make_shapes(args.work_dir / "shapes", args.batch * EPOCH, args.val, tuple(args.size), classes=args.classes)
    records = run_all(args)
    check_alike(records, args.seeds)
    text, figures = table(records, args.seeds)
    accelerator = device.pick(args.device)[0]
    device.use(accelerator)
    about = {"date": date.today().isoformat(), "device": accelerator.title(), "torch": torch.__version__}
    about |= {
        name: getattr(args, name) for name in ("head", "opt_level", "iters", "batch", "lr", "size", "classes", "val")
    }
    text = ", ".join(f"{key} {value}" for key, value in about.items()) + "\n" + text
    print(text)
    if args.out:
        runs = [
            {"mode": mode, "seed": seed, "metrics": record["metrics"], "losses_every_10": record["losses"][::10]}
            for (mode, seed), record in records.items()
        ]
        args.out.mkdir(parents=True, exist_ok=True)
        path = args.out / f"{about['date']}-training_curves-{args.head}.json"
        path.write_text(json.dumps({**about, **figures, "runs": runs}, indent=1) + "\n")
        path.with_suffix(".txt").write_text(text + "\n")


def main(argv: list[str] | None = None) -> None:
    """The command."""
    args = parse(argv)
    if args.one:
        one(args)
    elif args.work_dir:
        compare(args)
    else:
        with tempfile.TemporaryDirectory() as folder:
            args.work_dir = Path(folder)
            compare(args)


if __name__ == "__main__":
    main()
