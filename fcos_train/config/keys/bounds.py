"""Values of well-known keys are checked before anything is built, so that a message names the key, not a line of torch.

A rule holds for a dotted path, in which ``*`` stands for one part and ``**`` for any number of them, indices of lists
included. Only values that no part could use are refused; what depends on the class of a part is its own business, see
:mod:`fcos_train.config.part_named`.
"""

from __future__ import annotations

import logging
import math
import numbers
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from fcos_train.config.keys.sites import items
from fcos_train.config.options import MAX_BATCH, MAX_SEED, MAX_WORKERS
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable

Fault = Callable[[Any], str | None]  # what is wrong with a value, or None
MAX_SIDE, MAX_CHANNELS = 100_000, 1_000_000
MAX_COUNT = 2**53  # beyond it a double has no whole numbers
START_METHODS = ("fork", "spawn", "forkserver")


def whole(least: int, most: int = MAX_COUNT, never: int | None = None) -> Fault:
    """A whole number between two bounds, or ``never``, which switches something off."""
    span = f"of at least {least}" if most == MAX_COUNT else f"between {least} and {most}"
    extra = "" if never is None else f", or {never} for never"

    def fault(value: Any) -> str | None:
        fine = _is_number(value) and (value == never or (least <= value <= most and value == int(value)))
        return None if fine else f"must be a whole number {span}{extra}"

    return fault


def real(least: float = -math.inf, most: float = math.inf, above: float = -math.inf, infinite: bool = False) -> Fault:
    """A number between two bounds, or above one; not NaN, and finite unless ``infinite``."""
    words = "a finite number" if not infinite else "a number"
    for bound, text in ((least, "of at least"), (above, "above")):
        words += f" {text} {bound:g}" if math.isfinite(bound) else ""
    words += f" and at most {most:g}" if math.isfinite(most) else ""

    def fault(value: Any) -> str | None:
        fine = _is_number(value) and (infinite or math.isfinite(value)) and least <= value <= most and value > above
        return None if fine else f"must be {words}"

    return fault


def every(rule: Fault, filled: bool = False) -> Fault:
    """A rule for each number of a list, nested or not, or for the value if it is no list.

    Args:
        filled: the list has at least one element.
    """

    def fault(value: Any) -> str | None:
        if not isinstance(value, (list, tuple)):
            return rule(value)
        if filled and not value:
            return "is empty"
        return next((f"each {found.removeprefix('each ')}" for found in map(fault, value) if found is not None), None)

    return fault


def text_or_none(value: Any) -> str | None:
    """A path, an address or a name."""
    return None if value is None or isinstance(value, str) else "must be text"


def one_of(*allowed: Any) -> Fault:
    """One of a few values."""
    return lambda value: None if value in allowed else f"must be one of {', '.join(map(str, allowed))}"


def present(value: Any) -> str | None:
    """A list with something in it."""
    return "is empty" if isinstance(value, (list, tuple)) and not value else None


def optional(rule: Fault) -> Fault:
    """None too."""
    return lambda value: None if value is None else rule(value)


_LEVELS = (*logging.getLevelNamesMapping(), *range(0, 51))
_SIDES = every(real(above=0), filled=True)
_RATE = real(least=0)
_COUNT = whole(1, MAX_CHANNELS)
RULES: dict[str, Fault] = {
    "*_dataloader.batch_size": whole(1, MAX_BATCH),
    "*_dataloader.num_workers": whole(0, MAX_WORKERS),
    "*_dataloader.prefetch_factor": optional(whole(1)),
    "*_dataloader.num_batch_per_epoch": optional(whole(1)),
    "*_dataloader.dataset.**.pipeline": present,
    "*_dataloader.dataset.**.pipeline.**.scale": every(real(above=0, infinite=True), filled=True),
    "*_dataloader.dataset.**.pipeline.**.prob": every(real(least=0, most=1)),
    "train_cfg.max_epochs": optional(whole(1)),
    "train_cfg.max_iters": optional(whole(1)),
    "train_cfg.val_interval": whole(1),
    "train_cfg.val_begin": whole(0),
    "optim_wrapper.accumulative_counts": whole(1),
    "optim_wrapper.clip_grad.max_norm": real(above=0, infinite=True),
    "optim_wrapper.clip_grad.clip_value": real(above=0, infinite=True),
    "optim_wrapper.optimizer.lr": _RATE,
    "optim_wrapper.optimizer.momentum": _RATE,
    "optim_wrapper.optimizer.weight_decay": _RATE,
    "optim_wrapper.optimizer.eps": every(_RATE),
    "optim_wrapper.optimizer.betas": every(real(least=0, most=1)),
    "optim_wrapper.paramwise_cfg.**.*_mult": real(),
    "param_scheduler.**.begin": whole(0),
    "param_scheduler.**.end": every(whole(1)),
    "param_scheduler.**.start_factor": real(least=0, most=1),
    "param_scheduler.**.gamma": real(),
    "param_scheduler.**.milestones": every(whole(0)),
    "param_scheduler.**.T_max": optional(whole(1)),
    "default_hooks.checkpoint.interval": whole(1, never=-1),
    "default_hooks.checkpoint.max_keep_ckpts": whole(1, never=-1),
    "default_hooks.logger.interval": whole(1),
    "default_hooks.visualization.interval": whole(1),
    "auto_scale_lr.base_batch_size": whole(1),
    "randomness.seed": optional(whole(0, MAX_SEED)),
    "env_cfg.mp_cfg.mp_start_method": optional(one_of(*START_METHODS)),
    "env_cfg.mp_cfg.opencv_num_threads": whole(0),
    "log_level": one_of(*_LEVELS),
    "load_from": text_or_none,
    "work_dir": text_or_none,
    "model.**.num_classes": every(whole(1, MAX_CHANNELS)),
    "model.**.in_channels": every(_COUNT, filled=True),
    "model.**.out_channels": every(_COUNT, filled=True),
    "model.**.feat_channels": every(_COUNT, filled=True),
    "model.**.base_channels": _COUNT,
    "model.**.num_outs": whole(1, MAX_WORKERS),
    "model.**.stacked_convs": whole(0, MAX_WORKERS),
    "model.**.num_groups": optional(_COUNT),
    "model.**.strides": _SIDES,
    "model.**.loss_weight": every(real()),
    "model.**.std": optional(_SIDES),
    "model.**.mean": optional(every(real(), filled=True)),
    "model.**.pad_size_divisor": whole(1, MAX_SIDE),
    "model.test_cfg.**.score_thr": real(),
    "model.test_cfg.**.max_per_img": every(whole(1, never=-1)),
    "model.test_cfg.**.iou_threshold": real(least=0, most=1),
}


def require_values(cfg: Any) -> None:
    """Refuse values of well-known keys that no part could be built with.

    Args:
        cfg: an ``mmengine.Config``, or a plain dictionary.

    Raises:
        UserError: all of them, each with its dotted key and its value.
    """
    plain = cfg.to_dict() if hasattr(cfg, "to_dict") else cfg
    sections = {key.partition(".")[0] for key in RULES}
    faults = []
    for path, value in _values({k: v for k, v in plain.items() if k in sections or k.endswith("_dataloader")}, ""):
        rule = _rule(re.sub(r"(^|(?<=\.))\d+(?=\.|$)", "0", path))
        found = rule(value) if rule else None
        if found is not None:
            faults.append(f"{path}={_shown(value)}: {found}")
    optimizer = (plain.get("optim_wrapper") or {}).get("optimizer")
    if isinstance(optimizer, dict) and "type" in optimizer and "lr" not in optimizer:
        faults.append("optim_wrapper.optimizer.lr: the optimizer has no learning rate")
    if faults:
        raise UserError(f"in the config: {'; '.join(dict.fromkeys(faults))}")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _values(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every value with its dotted path, lists and dictionaries too."""
    for key, child in items(node):
        place = f"{path}.{key}" if path else key
        yield place, child
        yield from _values(child, place)


@cache
def _rule(path: str) -> Fault | None:
    """The rule of a path, whose indices are all 0 so that few different ones are looked up."""
    last = path.rpartition(".")[2]
    for pattern, rule in RULES.items():
        wanted = pattern.rpartition(".")[2]
        if (last == wanted or "*" in wanted) and _pattern(pattern).fullmatch(path):
            return rule
    return None


@cache
def _pattern(pattern: str) -> re.Pattern[str]:
    text = re.escape(pattern).replace(r"\*\*\.", r"(?:[^.]+\.)*").replace(r"\*", r"[^.]*")
    return re.compile(text)


def _shown(value: Any) -> str:
    text = printable(repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
