"""mmengine's runner with a readable log, and with its files where users expect them."""

from __future__ import annotations

import logging
import platform
import secrets
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

import mmcv_overrides
from fcos_train import progress
from fcos_train.config.keys.check import check_keys
from fcos_train.config.packages import missing_packages_named, require_packages_of_run
from fcos_train.config.part_named import parts_named
from fcos_train.engine.fixed_step import FixedStepHook
from fcos_train.start import MODULES
from mmcv_overrides import device, precision
from mmcv_overrides.dispensable import guard_curves, guard_log
from mmcv_overrides.errors import UserError
from mmcv_overrides.optimizer import StepOptimWrapper
from mmcv_overrides.parallel import on_master
from mmcv_overrides.printable import printable, printable_lines

MAX_CONSOLE_LINES = 3


# Warnings of mmengine about its own classes, which a user cannot act on.
NOISE = ('"FileClient" will be deprecated', '"HardDiskBackend" is the alias')


class ShortRecords(logging.Filter):
    """Long records, and warnings of mmengine about itself, go to the log file only."""

    def filter(self, record: logging.LogRecord) -> bool:
        """True for a short record, and for any warning that is not in ``NOISE``."""
        message = record.getMessage()
        if message.startswith(NOISE):
            return False
        return record.levelno > logging.INFO or message.count("\n") < MAX_CONSOLE_LINES


class PlainFormatter(logging.Formatter):
    """``2026-01-01 12:00:00,000 - mmdet - INFO - ...``, the line format of mmcv 1.x that scripts grep."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s - mmdet - %(levelname)s - %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Without control characters: names from files must not steer the terminal that shows the log.

        A record with the attribute ``plain`` is its text alone, as other programs print that line.
        """
        if getattr(record, "plain", False):
            return printable_lines(record.getMessage())
        return printable_lines(super().format(record))


class RunConfig(Config):
    """A config whose text is formatted once: mmengine formats it for every checkpoint, which takes up to a second."""

    @property
    def pretty_text(self) -> str:
        """The config as a program."""
        content = repr(self._cfg_dict)
        known = self.__dict__.get("_known_text")
        if known is None or known[0] != content:
            known = content, super().pretty_text
            self.__dict__["_known_text"] = known
        return known[1]


class DetectionRunner(Runner):
    """Builds everything from a prepared config. The only runner of this project."""

    def set_randomness(self, seed: int | None, diff_rank_seed: bool = False, deterministic: bool = False) -> None:
        """Upstream's, but a seed that is not given comes from the system.

        Upstream draws it from NumPy's global generator, so that a second run of a process, or a run in a program that
        has seeded NumPy, would always get the same one.
        """
        if seed is None:
            seed = on_master(lambda: secrets.randbelow(2**31))
        super().set_randomness(seed, diff_rank_seed, deterministic)

    def build_logger(self, log_level="INFO", log_file=None, **kwargs) -> MMLogger:
        """Upstream's logger, with the file in the work dir and lines that scripts for mmcv 1.x can read."""
        path = Path(self.work_dir) / f"{self.timestamp}.log"
        logger = super().build_logger(log_level=log_level, log_file=log_file or str(path), **kwargs)
        guard_log(logger)
        for handler in logger.handlers:
            handler.setFormatter(PlainFormatter())
            if type(handler) is logging.StreamHandler:
                handler.setStream(sys.stdout)
                handler.addFilter(ShortRecords())
        if progress.shows(sys.stdout):
            from fcos_train.engine.terminal import use_terminal

            use_terminal(logger)
        return logger

    def build_visualizer(self, visualizer: Visualizer | dict | None = None) -> Visualizer:
        """Upstream's visualizer; curves that cannot be written do not end a training."""
        built = super().build_visualizer(visualizer)
        guard_curves(built)
        return built

    @property
    def _log_dir(self) -> str:
        """The work dir itself; mmengine writes into a folder ``<timestamp>/`` within it."""
        return str(self.work_dir)

    @_log_dir.setter
    def _log_dir(self, folder: str) -> None:
        """Ignored: mmengine's constructor assigns ``<work dir>/<timestamp>`` and then creates the folder."""

    def dump_config(self) -> None:
        """Write ``config.py`` for a training. The config of an evaluation cannot train, so it is not written.

        The file imports the modules of its parts, so that mmdet's own tools can read it too.

        Raises:
            UserError: it cannot be written.
        """
        if self.cfg.get("train_cfg") is None:
            return
        given = self.cfg.get("custom_imports")
        self.cfg["custom_imports"] = imports_of(self.cfg)
        try:
            on_master(super().dump_config)
        finally:
            if given is None:
                self.cfg.pop("custom_imports")
            else:
                self.cfg["custom_imports"] = given

    def _log_env(self, env_cfg: dict) -> None:
        """Versions, device and overrides in a few lines. The config itself is in ``config.py`` beside the log."""
        self.logger.info(
            f"python {platform.python_version()}, torch {torch.__version__}, {device.current().name}, "
            f"{self.world_size} process{'es' if self.world_size > 1 else ''}, "
            f"{device.cores()} cores, {torch.get_num_threads()} threads, seed {self.seed}"
        )
        rows = mmcv_overrides.table()
        self.logger.info(f"{rows[0]}; {len(rows) - 1} overrides of the mm runtime (table in the log file)")
        self.logger.info("overrides, old -> new: why\n  " + "\n  ".join(rows) + "\n\n")

    def get_hooks_info(self) -> str:
        """Upstream's list of hooks, long enough for :class:`ShortRecords` to keep it in the log file."""
        return super().get_hooks_info() + "\n" * MAX_CONSOLE_LINES

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> dict:
        """Upstream's, whose every refusal names the file.

        Raises:
            UserError: the file cannot be read, or its weights are of another model.
        """
        try:
            return super().load_checkpoint(filename, *args, **kwargs)
        except UserError as error:
            if str(filename) in str(error):
                raise
            raise UserError(f"checkpoint {printable(filename)}: {error}", error.setting) from error

    def wrap_model(self, model_wrapper_cfg: dict | None, model: torch.nn.Module) -> torch.nn.Module:
        """Set the memory format before wrapping: DDP lays out its buckets by the strides of the weights.

        The weights stay fp32 here: at O2 the optimizer wrapper casts them once initial or loaded weights are in place.
        """
        if any(h.get("channels_last") for h in self.cfg.get("custom_hooks") or []):
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        precision.keep_losses_fp32(model)
        return super().wrap_model(model_wrapper_cfg, model)

    def build_step(self) -> StepOptimWrapper:
        """Everything that :meth:`train` does before its first step, without data, checkpoints and logs.

        Returns:
            the wrapper: ``model.train_step(batch, wrapper)`` is the step of a training with this config.
        """
        wrapper: StepOptimWrapper = self.build_optim_wrapper(self.cfg.optim_wrapper)
        self.optim_wrapper = wrapper
        self._init_model_weights()
        wrapper.lower(self.model)
        for hook in self.hooks:
            if isinstance(hook, FixedStepHook):
                hook.before_train(self)
        return wrapper


def shown(runner: Runner) -> AbstractContextManager[None]:
    """Draws the bars of a runner that prints on a terminal; does nothing for another one."""
    terminal = next((handler for handler in runner.logger.handlers if hasattr(handler, "shown")), None)
    return nullcontext() if terminal is None else terminal.shown(runner)


def imports_of(cfg: Config) -> dict:
    """``custom_imports`` that register every part of a prepared config, those of the config included."""
    given = cfg.get("custom_imports")
    theirs = given.get("imports", []) if isinstance(given, dict) else given or []
    imports = ["mmcv_overrides.auto", *MODULES, *([theirs] if isinstance(theirs, str) else theirs)]
    failing = isinstance(given, dict) and given.get("allow_failed_imports", False)
    return dict(imports=list(dict.fromkeys(imports)), allow_failed_imports=failing)


def build_runner(cfg: Config, name: str) -> DetectionRunner:
    """The runner of a prepared config, whose keys are checked against the parts that they configure.

    Args:
        name: of the run; mmengine hands out loggers and writers by it, so it gets a suffix of its own.

    Raises:
        UserError: unknown keys, all of them, each with the nearest known one; a package that is not installed.
    """
    require_packages_of_run(cfg)
    check_keys(cfg)
    cfg = RunConfig(cfg.to_dict(), cfg_text=cfg.text, filename="config.py")
    cfg["experiment_name"] = f"{name}_{secrets.token_hex(4)}"
    with missing_packages_named(), parts_named(cfg):
        return DetectionRunner.from_cfg(cfg)
