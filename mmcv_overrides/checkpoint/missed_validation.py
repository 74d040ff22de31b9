"""Validates on resume what a killed run had not: the last checkpoint was saved before its validation."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner


class MissedValidationHook(Hook):
    """Runs a validation before the first step of a resumed training.

    Args:
        checkpoints: the checkpoint hook, which knows what was resumed and keeps the record of validations.
    """

    priority = "LOWEST"  # everything else is ready by then, and has seen the end of a validation

    def __init__(self, checkpoints: Any) -> None:
        self.checkpoints = checkpoints

    def before_train(self, runner: Runner) -> None:
        """Validate if a validation is due at the resumed iteration, and the record does not have it."""
        if runner.val_loop is not None and self.checkpoints.lacks_validation(runner.iter) and is_due(runner):
            runner.logger.info(f"iteration {runner.iter} was saved and not validated: validating it now")
            runner.val_loop.run()

    def after_val(self, runner: Runner) -> None:
        """Note the validation in the record, once the best checkpoint is written."""
        self.checkpoints.note_validation(runner)


def is_due(runner: Runner) -> bool:
    """Whether the loop validates after the iterations that are done; False for a loop of the user's own."""
    loop: Any = runner.train_loop
    if hasattr(loop, "validation_due"):  # mmcv_overrides.loop
        return loop.validation_due()
    if isinstance(loop, IterBasedTrainLoop):
        loop._decide_current_val_interval()
        ends = loop.iter == loop.max_iters
        return 0 < loop.iter >= loop.val_begin and (loop.iter % loop.val_interval == 0 or ends)
    return False
