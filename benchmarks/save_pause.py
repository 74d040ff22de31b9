"""How long a training waits for a checkpoint: FCOS R-50 with SGD and momentum, 257 MB, beside a copy on the host.

    python benchmarks/save_pause.py                                  # any disk: the folder of --folder, default /tmp
    python benchmarks/save_pause.py --rounds 15 --out benchmarks/results

One round takes, in turn and in alternating order: a copy of every tensor of the state into new memory ("host copy", as
``copy.deepcopy`` of it), the same into memory that is kept, a checkpoint written in the background (the time
until training goes on, and until the file is on the disk), and one for which training waits. Medians over the rounds;
CPU seconds are those of the process, all threads together. The checkpoints are written by the hook of the trainer with
everything that belongs to them: finite check, random states, fsync, rename, ``last_checkpoint``, ``latest.pth``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import mmcv_overrides

mmcv_overrides.activate()

import torch  # noqa: E402
from mmdet.registry import MODELS  # noqa: E402
from mmdet.utils import register_all_modules  # noqa: E402
from mmengine.runner import Runner  # noqa: E402
from torch.utils.data import Dataset  # noqa: E402

from fcos_train.config.load import load_config  # noqa: E402
from fcos_train.engine.runner import RunConfig  # noqa: E402
from fcos_train.start import start  # noqa: E402
from mmcv_overrides import device  # noqa: E402
from mmcv_overrides.checkpoint.host_copy import HostCopy, for_each_tensor  # noqa: E402
from mmcv_overrides.checkpoint.plain import plain  # noqa: E402

CONFIG = "fcos/fcos_r50_caffe_fpn_gn-head_4x4_1x_coco"
LIMIT = 1.2  # of a host copy


class Nothing(Dataset):
    """Data that nobody reads."""

    metainfo = {"classes": ("a",)}

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict:
        return {}


def prepared(folder: Path) -> tuple[Runner, Any]:
    """A runner after one step of its optimizer, and its checkpoint hook."""
    start()
    register_all_modules()
    config = load_config(CONFIG)
    model = MODELS.build({**config.model, "backbone": {**config.model.backbone, "init_cfg": None}})
    runner = Runner(
        cfg=RunConfig(config.to_dict(), cfg_text=config.text, filename="config.py"),
        model=model,
        work_dir=str(folder),
        train_dataloader=dict(dataset=Nothing(), batch_size=1, sampler=dict(type="DefaultSampler", shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01, momentum=0.9)),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, max_keep_ckpts=1)),
        default_scope="mmdet",
        experiment_name=f"save_pause_{time.monotonic_ns()}",
    )
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.param_schedulers = []
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3) if parameter.requires_grad else None
    runner.optim_wrapper.optimizer.step()
    runner.optim_wrapper.zero_grad()
    hook = next(hook for hook in runner.hooks if hasattr(hook, "background"))
    hook.before_train(runner)
    return runner, hook


def state_of(runner: Runner) -> dict[str, Any]:
    """The tensors of a checkpoint."""
    return {"weights": plain(runner.model.state_dict()), "optimizer": plain(runner.optim_wrapper.state_dict())}


def measured(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and CPU seconds of all threads."""
    begin, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - begin, time.process_time() - cpu


class Measurements:
    """Times of one round after another."""

    def __init__(self, runner: Runner, hook: Any) -> None:
        self.runner, self.hook = runner, hook
        self.kept = HostCopy()
        self.number = 0
        self.times: dict[str, list[float]] = {}

    def round(self) -> None:
        """Every kind once; the order is reversed in every other round."""
        kinds = [self.copy, self.copy_into_kept_memory, self.background, self.waiting]
        for kind in kinds if self.number % 2 else kinds[::-1]:
            kind()

    def note(self, name: str, times: tuple[float, float]) -> None:
        """Keep a measurement."""
        self.times.setdefault(f"{name}_s", []).append(times[0])
        self.times.setdefault(f"{name}_cpu_s", []).append(times[1])

    def copy(self) -> None:
        """All tensors into new memory."""
        state, copies = state_of(self.runner), []
        self.note("host_copy", measured(lambda: for_each_tensor(state, lambda tensor: copies.append(tensor.clone()))))

    def copy_into_kept_memory(self) -> None:
        """All tensors into the same memory as before."""
        state = state_of(self.runner)
        self.note("copy_into_kept_memory", measured(lambda: self.kept.take(state)))

    def background(self) -> None:
        """As a training saves."""
        self.hook.background = True
        begin, cpu = time.perf_counter(), time.process_time()
        self.note("pause", measured(self._save))
        self.hook._writer.wait()
        self.note("background_in_all", (time.perf_counter() - begin, time.process_time() - cpu))

    def waiting(self) -> None:
        """As a training saves with background=False."""
        self.hook.background = False
        self.note("pause_without_background", measured(self._save))

    def _save(self) -> None:
        self.number += 1
        self.runner.train_loop._iter = self.number
        self.hook._save_checkpoint_with_step(self.runner, self.number, meta={})


def run(rounds: int, folder: Path) -> dict[str, Any]:
    """Medians, and their ratios."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        runner, hook = prepared(Path(scratch))
        found = Measurements(runner, hook)
        found.round()  # memory, files and the text of the config are there from then on
        found.times.clear()
        for _ in range(rounds):
            found.round()
        size = max(path.stat().st_size for path in Path(scratch).glob("*.pth"))
        hook.finish()
    medians = {name: round(statistics.median(times), 4) for name, times in found.times.items()}
    return {
        "config": CONFIG,
        "megabytes": round(size / 1e6, 1),
        "rounds": rounds,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": device.current().title(),
        **medians,
        "pause_per_host_copy": round(medians["pause_s"] / medians["host_copy_s"], 2),
        "pause_per_copy_into_kept_memory": round(medians["pause_s"] / medians["copy_into_kept_memory_s"], 2),
        "limit": LIMIT,
    }


def main() -> int:
    """Measure; 1 if the pause is over the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to write to")
    parser.add_argument("--out", type=Path, help="folder for the result")
    args = parser.parse_args()
    result = run(args.rounds, args.folder)
    text = json.dumps(result, indent=1)
    print(text)
    if args.out is not None:
        machine = "-".join(device.current().title().split()[:2]).replace("(R)", "")
        file = args.out / f"{date.today()}-save_pause-{machine}-torch{torch.__version__}.json"
        file.write_text(text + "\n", encoding="utf-8")
    return int(result["pause_per_host_copy"] > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
