"""The form of a config's sections: a dict where mmengine reads a dict, a list of dicts where it reads a list."""

from __future__ import annotations

from typing import Any

from mmcv_overrides.errors import UserError

DICTS = (
    "model",
    "train_dataloader",
    "val_dataloader",
    "test_dataloader",
    "train_cfg",
    "val_cfg",
    "test_cfg",
    "optim_wrapper",
    "default_hooks",
    "visualizer",
    "env_cfg",
    "randomness",
    "auto_scale_lr",
)
LISTS = ("custom_hooks",)
EITHER = ("param_scheduler", "val_evaluator", "test_evaluator")


def require_forms(cfg: Any) -> None:
    """Refuse sections of another form, which the code that reads them would fail on.

    Args:
        cfg: an ``mmengine.Config``, or a plain dictionary.

    Raises:
        UserError: all of them, each with its value and an example.
    """
    faults = [f"{key} is {_shown(cfg[key])}, not a dict" for key in DICTS if not _fits(cfg.get(key), dict)]
    for key in (*LISTS, *EITHER):
        value = cfg.get(key)
        if isinstance(value, dict) and key in EITHER:
            continue
        if not _fits(value, (list, tuple)):
            faults.append(f"{key} is {_shown(value)}, not a list of dicts such as [{{'type': 'EMAHook'}}]")
        faults += [
            f"{key}.{index} is {_shown(part)}, not a dict such as {{'type': 'EMAHook'}}"
            for index, part in enumerate(value if isinstance(value, (list, tuple)) else ())
            if not isinstance(part, dict) and not _is_built(part)
        ]
    if faults:
        raise UserError("in the config: " + "; ".join(faults))


def _fits(value: Any, kind: Any) -> bool:
    return value is None or isinstance(value, kind) or _is_built(value)


def _is_built(value: Any) -> bool:
    """Whether it is an object that mmengine takes as it is (a hook, a data loader), not a value from a config file."""
    return not isinstance(value, (str, bytes, int, float, list, tuple, dict, type(None)))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
