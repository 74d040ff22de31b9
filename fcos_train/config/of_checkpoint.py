"""The configuration for the weights in a checkpoint: given, from the file itself, or for the names of the weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from fcos_train.config import mmdet2
from fcos_train.config.load import read_config, walk
from fcos_train.config.of_weights import config_for
from fcos_train.config.vetting import check_config, run_custom_imports, without_pretrained
from mmcv_overrides.checkpoint import embedded_config
from mmcv_overrides.errors import UserError


@dataclass(frozen=True)
class Found:
    """A configuration.

    Attributes:
        config: of mmdet 3.x.
        notes: lines for the user: what was translated or assumed.
        vetted: it comes from the user or from this project, so that it may name any part.
    """

    config: Config
    notes: tuple[str, ...]
    vetted: bool


def find(
    checkpoint: Mapping[str, Any], where: str, given: str | Config | None, trust: bool = False, safe: bool = False
) -> Found:
    """The configuration for a checkpoint.

    Args:
        checkpoint: the loaded file. where: its name, for messages.
        given: by the user: a Config, its file or name; None: the one in the checkpoint, read without executing it,
            else one that fits the names of the weights.
        trust: the configuration in the checkpoint may be a program and name any part.
        safe: read a ``given`` file as data.

    Raises:
        UserError: there is none, or it is refused.
    """
    if isinstance(given, Config):
        return Found(*_modern(given, "the configuration"), True)
    if given is not None:
        config, notes = read_config(given, safe)
        return Found(config, tuple(notes), True)
    inside = embedded_config.from_checkpoint(dict(checkpoint), where, trust)
    if inside is not None:
        return Found(*_modern(inside, where), trust)
    config, notes = config_for(checkpoint, where)
    return Found(config, tuple(notes), True)


def _modern(config: Config, where: str) -> tuple[Config, tuple[str, ...]]:
    if not mmdet2.is_v2(config):
        return config, ()
    config, notes = mmdet2.modern(config, where)
    return config, tuple(notes)


def with_classes(config: Config, old: int, new: int) -> tuple[Config, tuple[str, ...]]:
    """A copy whose model has ``new`` classes instead of ``old``, and a line for the user.

    A config file has the number of its own data set; a training takes it from the data that it is given.
    """
    config = copy.deepcopy(config)
    for part in walk(config.model):
        if part.get("num_classes") == old:
            part["num_classes"] = new
    return config, (f"num_classes {old} -> {new}: the classes of the checkpoint",)


# What an evaluation reads of a configuration; the rest of one in a checkpoint need not be looked at.
EVALUATED = ("model", "data_preprocessor", "test_dataloader", "test_evaluator", "test_cfg", "metainfo", "default_scope")


def for_evaluation(found: Found, where: str) -> Config:
    """The configuration of :func:`find` with what an evaluation needs.

    Raises:
        UserError: it is from a checkpoint and names more than registered parts, or it has no data to evaluate on.
    """
    config = found.config
    kept = {key: config[key] for key in EVALUATED if config.get(key) is not None}
    for key in ("dataloader", "evaluator", "cfg"):
        if f"test_{key}" not in kept and config.get(f"val_{key}") is not None:
            kept[f"test_{key}"] = config[f"val_{key}"]
    kept["test_cfg"], kept["log_processor"] = {"type": "TestLoop"}, {"type": "LogProcessor"}
    if "test_dataloader" not in kept or "test_evaluator" not in kept:
        raise UserError(f"{where}: the configuration in it has no data to evaluate on; give a config file")
    kept["model"] = without_pretrained(kept["model"])
    reduced = Config(kept, cfg_text=f"# that of {where}\n")
    if not found.vetted:
        run_custom_imports(config, where)
        check_config(reduced.to_dict(), where, embedded_config.INSIDE, embedded_config.WAY_OUT)
    return reduced
