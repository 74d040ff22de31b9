"""Resuming a training: the checkpoint is checked before anything from it is used."""

from __future__ import annotations

from collections.abc import Callable
from traceback import walk_tb
from typing import Any

import torch
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from mmcv_overrides.checkpoint.embedded_config import TRUST, parse
from mmcv_overrides.checkpoint.reading import trusted
from mmcv_overrides.checkpoint.training_state import form_fault, is_count
from mmcv_overrides.errors import Advice, UserError
from mmcv_overrides.optimizer_state import check_same_optimizer
from mmcv_overrides.printable import printable

_upstream = Runner.resume
_LOAD = Advice("Load only its weights (load_from), or resume from a checkpoint of this training", "load_from")


def resume(
    self: Runner,
    filename: str,
    resume_optimizer: bool = True,
    resume_param_scheduler: bool = True,
    map_location: str | Callable = "default",
) -> None:
    """Replaces ``Runner.resume``: the same after :func:`check_resumable`.

    Raises:
        UserError: the checkpoint has no training state, or the state of another optimizer.
    """
    load = self.load_checkpoint

    def checked(*args: Any, **kwargs: Any) -> dict:
        found = load(*args, **kwargs)
        check_resumable(found, str(filename))
        if resume_optimizer:
            _check_optimizer(found, str(filename), self.optim_wrapper)
        return found

    self.load_checkpoint = checked  # upstream has no hook between loading and use
    try:
        _upstream(self, filename, resume_optimizer, resume_param_scheduler, map_location)
    except UserError as error:
        if str(filename) in str(error):
            raise
        raise UserError(f"checkpoint {printable(filename)}: {error}", error.setting) from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        part = _restored(error)
        if part is None:
            raise
        said = printable(" ".join(str(error).split()))
        raise _LOAD.error(
            f"checkpoint {printable(filename)}: its {part} is of another model or config "
            f"({type(error).__name__}: {said})"
        ) from error
    finally:
        del self.load_checkpoint


def _restored(error: BaseException) -> str | None:
    """The part of the training state that was being restored when an exception was raised; None if there was none."""
    owners = [
        frame.f_locals.get("self")
        for frame, _ in walk_tb(error.__traceback__)
        if frame.f_code.co_name in ("load_state_dict", "load_scheduler_state", "load_optimizer_state")
    ]
    kinds = {"optimizer": (OptimWrapper, torch.optim.Optimizer), "message_hub": MessageHub}
    found = (name for owner in owners for name, kind in kinds.items() if isinstance(owner, kind))
    return next(found, "param_schedulers" if owners else None)


def check_resumable(checkpoint: dict, where: str) -> None:
    """Refuse a checkpoint without training state, or with a stored configuration that is a program.

    Args:
        checkpoint: the loaded dictionary.
        where: the file, for messages.

    Raises:
        UserError: something is missing or of a wrong type; the message names it.
    """
    meta = checkpoint.get("meta")
    state = meta if isinstance(meta, dict) else {}
    if "message_hub" not in checkpoint and ("mmdet_version" in state or "mmcv_version" in state):
        version = f"mmdet {state['mmdet_version']}" if "mmdet_version" in state else f"mmcv {state['mmcv_version']}"
        raise _LOAD.error(
            f"checkpoint {printable(where)} is of {printable(str(version))}: no training state for mmengine"
        )
    wrong = [name for name in ("epoch", "iter") if not is_count(state.get(name))]
    if wrong:
        raise _LOAD.error(f"checkpoint {where} has no training state ({' and '.join(wrong)} in its meta)")
    parts: dict[str, tuple[str, ...]] = {"message_hub": ("log_scalars", "runtime_info", "resumed_keys")}
    if "optimizer" in checkpoint:
        parts["optimizer"] = ()
    for part, keys in parts.items():
        found = checkpoint.get(part)
        lacks = [key for key in keys if not isinstance(found, dict) or not isinstance(found.get(key), dict)]
        if not isinstance(found, dict) or lacks:
            fault = f"{part} is {type(found).__name__}{' without ' + ', '.join(lacks) if lacks else ''}"
            raise _LOAD.error(
                f"checkpoint {where} has no training state ({fault if part in checkpoint else 'no ' + part})"
            )
    damage = form_fault(checkpoint)
    if damage is not None:
        raise _LOAD.error(f"checkpoint {where}: its training state is damaged ({damage})")
    if "config" not in state:
        return
    if not isinstance(state["config"], str):
        raise _LOAD.error(f"checkpoint {where}: the configuration in its meta is not text")
    if not trusted():
        parse(state["config"], where, Advice(f"{_LOAD.text}. {TRUST.text}", TRUST.setting))


def _check_optimizer(checkpoint: dict, where: str, wrapper: Any) -> None:
    """Refuse the state of another kind of optimizer, before anything is resumed."""
    optimizer, state = getattr(wrapper, "optimizer", None), checkpoint.get("optimizer")
    groups = state.get("param_groups") if isinstance(state, dict) else None
    if not isinstance(optimizer, torch.optim.Optimizer) or not isinstance(groups, list):
        return  # several optimizers, or one that is not built yet
    try:
        check_same_optimizer(checkpoint["optimizer"], optimizer, checkpoint["optimizer"].get("optimizer_type"))
    except UserError as error:
        raise UserError(f"checkpoint {where}: {error}", setting=error.setting) from error
