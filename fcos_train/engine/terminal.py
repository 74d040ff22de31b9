"""A run on a terminal: a bar for each epoch and a line when it is done, a bar and a table for each evaluation.

The lines that scripts read (:data:`mmcv_overrides.text_log.NUMBERS`) go to the log file alone then; what else is logged
is printed above the bar. The bar shows numbers that were read back for those lines and nothing newer: it never waits
for the device. It is redrawn within the step's own thread, at most ten times a second, so that a loader worker that is
forked meanwhile holds none of its locks.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from fcos_train import progress
from fcos_train.evaluation.tables import evaluation_table
from mmcv_overrides.printable import printable, printable_lines
from mmcv_overrides.text_log import NUMBERS

REDRAWN = 0.1  # seconds from one drawing of the bar to the next, at least
# What the line of an epoch or the table stands for, and what concerns the log file alone.
REPLACED = ("Saving checkpoint at ", "checkpoints are written in the background ")


class _Plain(logging.Formatter):
    """The message alone, without control characters from file names."""

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


class Terminal(RichHandler):
    """The handler that prints log records on a terminal, and what is drawn below them.

    Attributes:
        numbers: of the last line of training.
    """

    def __init__(self) -> None:
        console = progress.console(sys.stdout)
        super().__init__(console=console, show_time=False, show_path=False, keywords=[])
        self.setFormatter(_Plain("%(message)s"))
        self.numbers: Mapping[str, Any] = {}
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            console=console,
            auto_refresh=False,
            transient=True,
            expand=True,
            redirect_stderr=sys.stderr.isatty(),
        )

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, or keep its numbers for the bar."""
        numbers = getattr(record, NUMBERS, None)
        if numbers is not None:
            if numbers.get("mode") == "train":
                self.numbers = numbers
        elif not record.getMessage().startswith(REPLACED):
            super().emit(record)

    def show(self) -> None:
        """Begin to draw the bars. The cursor stays visible, also for the shell of a run that is killed."""
        if not self.bars.live.is_started:
            self.bars.start()
            self.console.show_cursor(True)

    @contextmanager
    def shown(self, runner: Runner) -> Iterator[None]:
        """Draw the bars of a training or an evaluation."""
        runner.register_hook(TerminalHook(self))
        with progress.occupied():
            try:
                yield
            finally:
                self.bars.stop()


class TerminalHook(Hook):
    """Moves the bars of a :class:`Terminal` and prints what is finished.

    It comes after the hook of the logger, whose numbers it shows, and before that of checkpoints.
    """

    priority = "LOW"

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.bars = terminal.bars
        self.training = self.bars.add_task("training", visible=False, numbers="")
        self.evaluation = self.bars.add_task("evaluation", visible=False, numbers="")
        self._drawn = self._epoch_start = self._evaluation_start = 0.0

    def before_train(self, runner: Runner) -> None:
        """Begin to draw."""
        self.terminal.show()

    def before_train_epoch(self, runner: Runner) -> None:
        """A bar from nothing, or from where a resumed epoch goes on."""
        self._epoch_start = time.monotonic()
        length = runner.max_iters if _endless(runner) else len(runner.train_dataloader)
        what = "training" if _endless(runner) else f"epoch {runner.epoch + 1}/{runner.max_epochs}"
        self.bars.reset(self.training, total=length, visible=True, description=what)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """One step further. Nothing is read from the device."""
        done = runner.iter + 1 if _endless(runner) else batch_idx + 1
        eta = timedelta(seconds=int(runner.message_hub.get_info("eta") or 0))
        self._move(self.training, done, f"{_numbers(self.terminal.numbers)} ETA {eta}".strip())

    def after_train_epoch(self, runner: Runner) -> None:
        """Print the line of the epoch."""
        if not _endless(runner):
            seconds = timedelta(seconds=round(time.monotonic() - self._epoch_start))
            parts = _losses(self.terminal.numbers)
            line = f"epoch {runner.epoch + 1}/{runner.max_epochs}  {_numbers(self.terminal.numbers)}  {seconds}"
            self.terminal.console.print(line + (f"  [dim]{parts}[/dim]" if parts else ""), soft_wrap=True)

    def before_val_epoch(self, runner: Runner) -> None:
        """A bar for an evaluation; it is drawn when that takes longer than a moment."""
        self._before_evaluation(runner.val_dataloader)

    def before_test_epoch(self, runner: Runner) -> None:
        """A bar for an evaluation; it is drawn when that takes longer than a moment."""
        self._before_evaluation(runner.test_dataloader)

    def _before_evaluation(self, loader: Any) -> None:
        self._evaluation_start = time.monotonic()
        self.bars.reset(self.evaluation, total=len(loader), visible=False)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """One batch further."""
        self._evaluated(batch_idx)

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """One batch further."""
        self._evaluated(batch_idx)

    def _evaluated(self, batch_idx: int) -> None:
        if time.monotonic() - self._evaluation_start >= progress.DELAY:
            self.terminal.show()
            self.bars.update(self.evaluation, visible=True)
        self._move(self.evaluation, batch_idx + 1, "")

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Print the table of an evaluation during training."""
        self._after_evaluation(runner.val_loop, f"evaluation after epoch {runner.epoch}", metrics or {})

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Print the table of an evaluation of its own."""
        self._after_evaluation(runner.test_loop, "evaluation", metrics or {})

    def _after_evaluation(self, loop: Any, title: str, metrics: dict[str, float]) -> None:
        self.bars.update(self.evaluation, visible=False)
        by_class = [getattr(metric, "per_class", None) for metric in loop.evaluator.metrics]
        table = evaluation_table(metrics, next(filter(None, by_class), {}))
        self.terminal.console.print(title, table, sep="\n")

    def _move(self, task: Any, done: int, numbers: str) -> None:
        self.bars.update(task, completed=done, numbers=numbers)
        now = time.monotonic()
        if now - self._drawn >= REDRAWN and self.bars.live.is_started:
            self._drawn = now
            self.bars.refresh()


def _endless(runner: Runner) -> bool:
    """Whether the training counts iterations: over all passes through the data, which may have no length."""
    return isinstance(runner.train_loop, IterBasedTrainLoop)


def _numbers(numbers: Mapping[str, Any]) -> str:
    """Loss, learning rate, speed and memory of the device, as far as they are known."""
    formats = (("loss", "loss {:.4f}"), ("lr", "lr {:.1e}"), ("fps", "{:.1f} images/s"), ("memory", "{} MB"))
    return "  ".join(text.format(numbers[name]) for name, text in formats if numbers.get(name))


def _losses(numbers: Mapping[str, Any]) -> str:
    """The parts of the loss."""
    parts = {k.removeprefix("loss_"): v for k, v in numbers.items() if k.startswith("loss_") and isinstance(v, float)}
    return printable("  ".join(f"{name} {value:.4f}" for name, value in parts.items()))


def use_terminal(logger: logging.Logger) -> None:
    """Let ``logger`` print through a :class:`Terminal`; of several ranks only the first prints below errors."""
    for handler in [handler for handler in logger.handlers if type(handler) is logging.StreamHandler]:
        terminal = Terminal()
        terminal.setLevel(handler.level)
        terminal.filters = handler.filters
        logger.removeHandler(handler)
        logger.addHandler(terminal)
