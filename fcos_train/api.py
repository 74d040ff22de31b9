"""The trainer as a Python library: ``from fcos_train import train, evaluate, export, check_data, Detector``.

Each function takes the options of the command of its name as keyword arguments, checks them in the same way, and raises
:class:`mmcv_overrides.errors.UserError` where the command prints ``error: ...``. Nothing ends the process.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fcos_train.config.fields import Options, declared
from fcos_train.data import DataReport
from fcos_train.deploy.artefact import load_model
from fcos_train.infer.base import BaseDetector
from fcos_train.infer.detections import Detections
from fcos_train.infer.detector import Detector as CheckpointDetector
from fcos_train.infer.options import DemoOptions
from mmcv_overrides.errors import UserError

if TYPE_CHECKING:
    from fcos_train.config.options import TrainOptions

Kind = TypeVar("Kind", bound=Options)


@dataclass(frozen=True)
class Trained:
    """A finished training.

    Attributes:
        work_dir: folder of its logs and checkpoints.
        checkpoint: the last checkpoint. best_checkpoint: the one with the best evaluation. None where there is none.
        metrics: numbers of the last evaluation (``bbox_mAP``, ...); empty without one.
    """

    work_dir: Path
    checkpoint: Path | None
    best_checkpoint: Path | None
    metrics: dict[str, float]


@dataclass(frozen=True)
class ExportResult:
    """A finished, verified export.

    Attributes:
        path: the main file. description: the JSON file beside it.
        differences: the largest absolute difference from PyTorch, by output (onnx) or map (other targets).
    """

    path: Path
    description: Path
    differences: dict[str, float]


class Detector(BaseDetector):
    """A checkpoint or an exported model, loaded once and called on any number of images: see ``__call__``.

    Args:
        source: a .pth file, or an export of any target (``.onnx``, ``.xml``, ``.param``, ...) beside its description.
        config: a Config, its file or name, for a checkpoint that has none.
        device: ``auto``, ``cpu``, ``cuda``, ``npu``, or one card as in ``npu:0``; exports run on the CPU.
        trust_checkpoint: allow the file to execute code.
        safe_config: read a ``config`` file as data.

    Attributes:
        loaded: the detector that does the work.

    Raises:
        UserError: no such file, an unreadable one, or options that do not apply to an export.
    """

    def __init__(
        self,
        source: str | Path,
        config: str | Path | None = None,
        device: str = "auto",
        trust_checkpoint: bool = False,
        safe_config: bool = False,
    ) -> None:
        options = chosen(
            DemoOptions,
            "Detector",
            checkpoint=source,
            config=config,
            device=device,
            trust_checkpoint=trust_checkpoint,
            safe_config=safe_config,
        )
        self._take(load_model(options))

    def _take(self, loaded: BaseDetector) -> None:
        self.loaded, self.classes, self.config = loaded, loaded.classes, loaded.config
        self.notices, self.device_reason = loaded.notices, loaded.device_reason

    @classmethod
    def from_checkpoint(cls, *given: Any, **options: Any) -> Detector:
        """The same as :meth:`fcos_train.infer.detector.Detector.from_checkpoint`, with its arguments."""
        made = cls.__new__(cls)
        made._take(CheckpointDetector.from_checkpoint(*given, **options))
        return made

    def detect(self, images: Iterable[np.ndarray], batch_size: int = 1) -> list[Detections]:
        """Detect objects in images u8 [H, W, 3] BGR."""
        return self.loaded.detect(images, batch_size)


def train(config: str | Path, **options: Any) -> Trained:
    """Train a detector; the options are those of ``fcos-train train`` (``data_path``, ``max_epochs``, ...).

    Args:
        config: a config file, its name within ``configs/``, or ``mmdet::folder/name``.

    Raises:
        UserError: a fault in the options, the config, the data or a checkpoint; nothing has been trained then. With
            ``devices=2`` or more also a training that failed in one of its processes.
        Stopped: SIGTERM, SIGHUP or SIGUSR1 has stopped the training, which has saved its state (a SystemExit: a program
            that does not catch it ends). For Ctrl-C it is a KeyboardInterrupt too. Handlers of the caller's are put
            back, and called then. In another thread than the main one signals are left alone.
    """
    from mmengine.hooks import CheckpointHook

    from fcos_train.cli.train import with_batch_size
    from fcos_train.config.options import TrainOptions
    from fcos_train.engine import run

    asked = chosen(TrainOptions, "train", config=config, **options)
    if asked.devices is not None and asked.devices > 1:
        return _trained_by_ranks(asked)
    runner = run.train(with_batch_size(asked))
    hook = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
    best = getattr(hook, "best_ckpt_path", None) or next(iter(getattr(hook, "best_ckpt_path_dict", {}).values()), None)
    return _trained(Path(runner.work_dir), getattr(hook, "last_ckpt", None), best)


def _trained_by_ranks(options: TrainOptions) -> Trained:
    """Train in several processes; what they wrote is found in the work dir."""
    from fcos_train.cli.finished import best_and_last
    from fcos_train.cli.train import run as command

    asked = f"devices={options.devices}"
    if options.work_dir is None:
        raise UserError(f"{asked}: give work_dir, the folder in which the processes leave their checkpoints")
    status = command(options)
    if status:
        raise UserError(f"{asked}: the training ended with status {status}; what it said was printed")
    folder = Path(options.work_dir)
    best, last = best_and_last(folder)
    return _trained(folder, last and last.resolve(), best)


def _trained(folder: Path, last: str | Path | None, best: str | Path | None) -> Trained:
    from fcos_train.report.summary import summarise

    return Trained(folder, Path(last) if last else None, Path(best) if best else None, summarise(folder).validation)


def evaluate(checkpoint: str | Path, config: str | Path | None = None, **options: Any) -> dict[str, float]:
    """Evaluate a checkpoint; the options are those of ``fcos-train eval`` (``data_path``, ``batch_size``, ...).

    Args:
        config: it was trained with; None: the ``config.py`` beside the checkpoint, else the one in it.

    Returns:
        the COCO numbers (``bbox_mAP``, ...).

    Raises:
        UserError: a fault in the options, the config, the data or the checkpoint.
    """
    from fcos_train.config.options import EvalOptions
    from fcos_train.engine import run
    from fcos_train.evaluation import write_metrics

    asked = chosen(EvalOptions, "evaluate", config=config, checkpoint=checkpoint, **options)
    metrics = run.evaluate(asked)
    if asked.out:
        write_metrics(asked.out, metrics)
    return metrics


def export(checkpoint: str | Path, **options: Any) -> ExportResult:
    """Export a checkpoint and compare the result with PyTorch; the options are those of ``fcos-train export``.

    Raises:
        UserError: a fault in the options, the checkpoint or the data, or outputs that differ from PyTorch's.
    """
    from fcos_train.cli.export import ExportArguments, exported

    asked = chosen(ExportArguments, "export", checkpoint=checkpoint, **options)
    done: Any = exported(asked)  # of ONNX or of another target
    found = done.differences if hasattr(done, "differences") else done.blobs
    return ExportResult(done.path, done.description, {one.name: float(one.largest) for one in found})


def check_data(path: str | Path, **options: Any) -> DataReport:
    """Check a data set; the options are those of ``fcos-train check-data`` (``classes``, ``decode``, ``json``).

    Returns:
        the report; its ``lines()`` are what the command prints.

    Raises:
        UserError: the data set cannot be trained on, or with ``decode=True`` an image cannot be decoded.
    """
    from fcos_train.cli.check_data import CheckDataOptions, checked

    return checked(chosen(CheckDataOptions, "check_data", path=path, **options), lambda text: None)


def chosen(kind: type[Kind], function: str, **given: Any) -> Kind:
    """The options of a command from keyword arguments: paths may be ``Path``, lists need not be tuples.

    Args:
        kind: the dataclass of the options. function: for messages.

    Raises:
        UserError: unknown names, with the nearest known one, or values that are refused.
    """
    known = {one.name: one for one in declared(kind)}  # type: ignore[arg-type]  # mypy: type variables are not hashable
    unknown = [name for name in given if name not in known]
    if unknown:
        hints = (difflib.get_close_matches(name, known, n=1) for name in unknown)
        told = [f"{name}" + (f" (did you mean {near[0]}?)" if near else "") for name, near in zip(unknown, hints)]
        raise UserError(f"{function}() has no option {', '.join(told)}; it has those of the command's --help")
    missing = [field.name for field in fields(kind) if field.default is field.default_factory is MISSING]  # type: ignore[arg-type]
    absent = [name for name in missing if name not in given]
    if absent:
        raise UserError(f"{function}() needs {', '.join(absent)}")
    values = {name: _plain(value, known[name].kind, known[name].length) for name, value in given.items()}
    return kind(**values)


def _plain(value: Any, kind: type, length: int | None) -> Any:
    """A value as the command line would give it."""
    if value is None:
        return None
    if length is not None:
        many = (value,) if isinstance(value, (str, os.PathLike)) else tuple(value)
        return tuple(_plain(one, kind, None) for one in many)
    if kind is Path:
        return Path(value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value
