"""A config whose parts do not fit together fails in the first step: one line that names the part of the model.

That a neck expects three feature maps and the backbone has four shows only when an image goes through them. Later
failures, and those in code of the user's own, are faults of a program and keep their traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import format_exception, walk_tb
from types import TracebackType
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from fcos_train.config.part_named import is_foreign, said_by
from mmcv_overrides.errors import UserError

_KINDS = (AssertionError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError)


class StepsHook(Hook):
    """Knows whether a step has been completed."""

    done = False

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """A step of training."""
        self.done = True

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """A batch of an evaluation."""
        self.done = True


@contextmanager
def first_step_named(runner: Runner) -> Iterator[None]:
    """Turn an exception from a part of the model in the first step into a user error; its traceback goes to the log.

    Raises:
        UserError: the message has the dotted path of the part in the model.
    """
    steps = StepsHook()
    runner.register_hook(steps)
    try:
        yield
    except _KINDS as error:
        where = None if steps.done else _innermost(error.__traceback__, runner.model)
        if where is None:
            raise
        runner.logger.info("".join(["the first step failed\n", *format_exception(error)]))  # long: the file alone
        raise UserError(
            f"the config does not fit together: {where} failed on the first batch: {said_by(error)}. "
            "The log file has the traceback"
        ) from error


def _innermost(traceback: TracebackType | None, model: nn.Module) -> str | None:
    """The innermost part of the model that was computing; None if there is none, or if foreign code failed in it."""
    names = {id(module): name for name, module in getattr(model, "module", model).named_modules()}
    found: str | None = None
    for frame, _ in walk_tb(traceback):
        part = frame.f_locals.get("self")
        name = names.get(id(part))
        if name is not None:
            found = f"{'.'.join(filter(None, ('model', name)))} ({type(part).__name__})"
        elif found is not None and is_foreign(frame):
            return None
    return found
