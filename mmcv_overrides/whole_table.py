"""Makes the table of overrides true however a config names a part: by name, as a class, or not at all.

mmengine builds some parts without asking a registry: the loop of ``train_cfg=dict(by_epoch=True)``, a log processor
without a type, and every part whose ``type`` is a class, as in configs written in Python.
"""

from __future__ import annotations

from typing import Any

from mmengine.registry import Registry
from mmengine.runner import BaseLoop, LogProcessor, Runner

from mmcv_overrides import seams
from mmcv_overrides.loop import ResumableEpochLoop
from mmcv_overrides.seams import Override
from mmcv_overrides.text_log import ContractLogProcessor

_build, _build_train_loop = Registry.build, Runner.build_train_loop
_build_log_processor, _log_env = Runner.build_log_processor, Runner._log_env


def build(self: Registry, cfg: dict, *args: Any, **kwargs: Any) -> Any:
    """Replaces ``Registry.build``: a class that an override replaces stands for the replacement; subclasses do not."""
    kind = cfg.get("type") if isinstance(cfg, dict) else None
    if isinstance(kind, type) and kind in seams.replaced:
        cfg = cfg.copy()
        cfg["type"] = seams.replaced[kind]
    return _build(self, cfg, *args, **kwargs)


def build_train_loop(self: Runner, loop: BaseLoop | dict) -> BaseLoop:
    """Replaces ``Runner.build_train_loop``: ``by_epoch=True`` is the loop that ``EpochBasedTrainLoop`` names."""
    if isinstance(loop, dict) and "type" not in loop and loop.get("by_epoch"):
        loop = {**{key: value for key, value in loop.items() if key != "by_epoch"}, "type": ResumableEpochLoop}
    return _build_train_loop(self, loop)


def build_log_processor(self: Runner, log_processor: LogProcessor | dict) -> LogProcessor:
    """Replaces ``Runner.build_log_processor``: without a type, the one that ``LogProcessor`` names."""
    if isinstance(log_processor, dict) and "type" not in log_processor:
        log_processor = {**log_processor, "type": ContractLogProcessor}
    return _build_log_processor(self, log_processor)


def log_env(self: Runner, env_cfg: dict) -> None:
    """Replaces ``Runner._log_env``: the same, then the table of overrides."""
    from mmcv_overrides import table

    _log_env(self, env_cfg)
    self.logger.info("overrides of the mm runtime, old -> new: why\n  " + "\n  ".join(table()) + "\n")


OVERRIDES = [
    Override(
        "mmengine.registry.registry:Registry.build",
        build,
        "a type given as a class passes the registry by; the classes in this table are replaced there too",
    ),
    Override(
        "mmengine.runner.runner:Runner.build_train_loop",
        build_train_loop,
        "train_cfg=dict(by_epoch=True) passes the registry by",
    ),
    Override(
        "mmengine.runner.runner:Runner.build_log_processor",
        build_log_processor,
        "a log processor without a type passes the registry by",
    ),
    Override("mmengine.runner.runner:Runner._log_env", log_env, "this table in the log of every run"),
]
