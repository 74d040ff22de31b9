"""What a user can ask of a training or an evaluation, checked once, all faults reported together."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from mmcv_overrides.errors import UserError

PRETRAINED = ("require", "auto", "none")
NOT_JSON = (".pkl", ".pickle", ".yaml", ".yml", ".npy", ".npz", ".csv")  # --out of mmdet 2.x was a pickle
STEP_MODES = ("auto", "eager", "compile", "graph", "mmdet")
Launchable = TypeVar("Launchable", "TrainOptions", "EvalOptions")


def _absent_folders(allow_outside: tuple[str, ...]) -> list[str]:
    return [f"--allow-outside {folder}: no such folder" for folder in allow_outside if not Path(folder).is_dir()]


def _complain(faults: list[str]) -> None:
    if faults:
        raise UserError("; ".join(faults))


def under_torchrun() -> bool:
    """Whether this process is one of several ranks that torchrun started."""
    told = all(os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    return told and os.environ["WORLD_SIZE"] != "1"


def launched(options: Launchable) -> Launchable:
    """The options with their launcher decided; without ``--launcher`` the ranks of torchrun join each other."""
    if options.launcher is not None:
        return options
    return replace(options, launcher="pytorch" if under_torchrun() else "none")


@dataclass(frozen=True)
class TrainOptions:
    """Options of ``fcos-train train``; the field names are the flags.

    Raises:
        UserError: values that cannot be, all of them in one message.
    """

    config: str
    data_path: str | None = None
    work_dir: str | None = None
    device: str = "auto"
    opt_level: str | None = None
    amp_dtype: str | None = None
    loss_scale: str | float | None = None
    seed: int | None = None
    deterministic: bool | None = None
    max_iters: int | None = None
    max_epochs: int | None = None
    batch_size: int | None = None
    workers: int | None = None
    lr_base: int | None = None
    auto_lr: bool = True
    resume: str | None = None  # "auto": the newest readable checkpoint of the work dir
    load_from: str | None = None
    pretrained: str = "require"
    step_mode: str = "auto"
    validate: bool = True
    check: bool = True
    classes: tuple[str, ...] | None = None
    launcher: str | None = None  # None: pytorch under torchrun, else none (see :func:`launched`)
    npu_ids: int | None = None
    trust_checkpoint: bool = False
    safe_config: bool = False  # read the config as data
    cfg_options: dict[str, Any] = field(default_factory=dict)
    allow_outside: tuple[str, ...] = ()
    overwrite: bool = False

    def __post_init__(self):
        faults = [
            f"--{name.replace('_', '-')} {value}: must be {'0 or more' if name == 'workers' else 'at least 1'}"
            for name in ("max_iters", "max_epochs", "batch_size", "workers", "lr_base")
            if (value := getattr(self, name)) is not None and value < (0 if name == "workers" else 1)
        ]
        if self.pretrained not in PRETRAINED:
            faults.append(f"--pretrained {self.pretrained}: choose one of {', '.join(PRETRAINED)}")
        if self.step_mode not in STEP_MODES:
            faults.append(f"--step-mode {self.step_mode}: choose one of {', '.join(STEP_MODES)}")
        if self.resume and self.overwrite:
            faults.append("--resume continues a run and --overwrite replaces it: give one of them")
        if self.resume and self.load_from:
            faults.append(
                "--resume continues a run and --load-from starts a new one from its weights: give one of them"
            )
        faults += _absent_folders(self.allow_outside)
        for flag, value in (("--data-path", self.data_path), ("--load-from", self.load_from)):
            if value and "://" not in value and not Path(value).exists():
                faults.append(f"{flag} {value}: no such file or folder")
        if self.resume not in (None, "auto") and not Path(self.resume).exists():
            faults.append(f"--resume {self.resume}: no such file")
        if self.launcher == "pytorch" and "RANK" not in os.environ:
            faults.append("--launcher pytorch: start with torchrun (or use test/train_full_8p.sh)")
        _complain(faults)


@dataclass(frozen=True)
class EvalOptions:
    """Options of ``fcos-train eval``; the field names are the flags.

    Raises:
        UserError: values that cannot be, all of them in one message.
    """

    config: str | None
    checkpoint: str
    data_path: str | None = None
    work_dir: str | None = None
    device: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    out: str | None = None
    show_dir: str | None = None
    show_score_thr: float = 0.3
    classes: tuple[str, ...] | None = None
    launcher: str | None = None  # None: pytorch under torchrun, else none (see :func:`launched`)
    trust_checkpoint: bool = False
    safe_config: bool = False
    cfg_options: dict[str, Any] = field(default_factory=dict)
    allow_outside: tuple[str, ...] = ()

    def __post_init__(self):
        faults = []
        if not Path(self.checkpoint).is_file():
            faults.append(f"checkpoint {self.checkpoint}: no such file")
        if self.data_path and not Path(self.data_path).exists():
            faults.append(f"--data-path {self.data_path}: no such folder")
        faults += _absent_folders(self.allow_outside)
        if self.batch_size is not None and self.batch_size < 1:
            faults.append(f"--batch-size {self.batch_size}: must be at least 1")
        if self.out and Path(self.out).suffix in NOT_JSON:
            faults.append(f"--out {self.out}: the numbers are written as JSON; give a name that ends in .json")
        _complain(faults)
