"""A training on a terminal: bars, a line per epoch, a table per evaluation; the log file has the lines for scripts."""

import logging
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from fcos_train import progress
from fcos_train.cli.finished import show_finished
from fcos_train.engine import terminal
from fcos_train.engine.runner import PlainFormatter, ShortRecords, shown
from tests.support.screen import on_terminal, run_on_terminal, screen
from tests.support.toy_runner import Record, toy_runner


class Slow(Record):
    """Takes its time, warns in the second epoch, and prints as a library does."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        time.sleep(0.03)
        if runner.iter == 5:
            runner.logger.warning("a \x1b[2Jwarning")
            print("printed by a library")


@pytest.fixture
def train_on_terminal(monkeypatch, tmp_path):
    monkeypatch.setattr(progress, "_chosen", None)
    monkeypatch.setattr(terminal, "REDRAWN", 0.0)

    def train(**options):
        with on_terminal(monkeypatch) as found:
            runner = toy_runner(tmp_path / "run", epochs=2, record=Slow(), **options)
            for handler in runner.logger.handlers:
                handler.setFormatter(PlainFormatter())
                if type(handler) is logging.StreamHandler:
                    handler.setStream(sys.stdout)
                    handler.addFilter(ShortRecords())
            terminal.use_terminal(runner.logger)
            with shown(runner):
                runner.train()
        (log,) = (tmp_path / "run").glob("*/*.log")
        return found[0], log.read_text()

    return train


def test_bar_lines_and_table(train_on_terminal):
    raw, log = train_on_terminal(scores=[0.25, 0.5], default_hooks=dict(logger=dict(type="LoggerHook", interval=2)))
    losses = re.findall(r"Epoch \[\d\]\[4/4\].*? loss: ([\d.]+)", log)
    assert len(losses) == 2 and log.count("Epoch [1][2/4]") == 1 and log.count("Epoch(val) [2][8]\tmAP: 0.5000") == 1
    lines = [line for line in screen(raw) if line]
    first, second = (i for i, line in enumerate(lines) if re.match(r"epoch \d/2 ", line))
    assert [lines[i].split()[1:4] for i in (first, second)] == [[f"{n}/2", "loss", losses[n - 1]] for n in (1, 2)]
    assert "lr 5.0e-02" in lines[first]
    assert lines[first + 1] == "evaluation after epoch 1" and lines[first + 5] == "│ mAP    │ 0.2500 │"
    # what is printed meanwhile stands between the epochs, whole, and cannot clear the screen
    assert r"WARNING  a \x1b[2Jwarning" in lines[first:second] and "printed by a library" in lines[first:second]
    assert not any("Epoch [" in line or "Epoch(val)" in line or "Saving checkpoint" in line for line in lines)
    # bars: each step of both epochs, with the numbers of the last log line and not of the step itself; gone at the end
    assert all(f"{step}/4" in raw for step in (1, 2, 3, 4)) and "ETA" in raw
    assert re.search(rf"3/4 loss {losses[0]}", raw) is None and not any("ETA" in line for line in lines)
    assert raw.rstrip().endswith("\x1b[2K")


def test_evaluation_has_a_bar_when_it_takes_longer(train_on_terminal, monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 0.0)
    raw, _ = train_on_terminal(scores=[0.25, 0.5])
    assert re.search(r"evaluation .*3/4", raw) and re.search(r"epoch 2/2 .*1/4", raw)


def test_error_ends_the_bar(train_on_terminal):
    with pytest.raises(IndexError):  # of the list of scores
        train_on_terminal(scores=[])
    assert progress._busy is False


def test_nothing_is_read_from_the_device(monkeypatch):
    """The bar of a step whose losses have not been read back."""

    class OnDevice:
        def __getattr__(self, name):
            raise AssertionError(f"{name} of a loss that is on the device")

    with on_terminal(monkeypatch):
        hook = terminal.TerminalHook(terminal.Terminal())
        hub = SimpleNamespace(get_info=lambda name: 61.0 if name == "eta" else None)
        runner = SimpleNamespace(iter=6, message_hub=hub, train_loop=None, max_iters=10)
        hook.terminal.numbers = {"mode": "train", "loss": 0.5, "lr": 1e-3, "fps": 12.34, "memory": 512}
        hook.after_train_iter(runner, 2, None, {"loss": OnDevice()})
        (task,) = [task for task in hook.bars.tasks if task.id == hook.training]
    assert task.completed == 3
    assert task.fields["numbers"] == "loss 0.5000  lr 1.0e-03  12.3 images/s  512 MB ETA 0:01:01"


def test_summary(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run = Path("my run")
    (run / "report").mkdir(parents=True)
    for name in ("best_bbox_mAP_epoch_3.pth", "latest.pth", "report/index.html"):
        (run / name).touch()
    (run / "20260101_000000.log.json").write_text(
        '{"mode": "train", "epoch": 3, "iter": 5, "step": 15, "loss": 1.0, "fps": 44.0}\n'
        '{"mode": "val", "epoch": 3, "iter": 8, "bbox_mAP": 0.5}\n'
    )
    with on_terminal(monkeypatch) as found:
        show_finished(tmp_path / run)
    lines = [" ".join(line.split()) for line in screen(found[0]) if line]
    assert "training finished" in lines[0]
    assert lines[1:] == [
        "best checkpoint my run/best_bbox_mAP_epoch_3.pth (bbox_mAP 0.5000, epoch 3)",
        "last checkpoint my run/latest.pth",
        "images/s 44.00 (without warm-up and evaluation)",
        "report my run/report/index.html",
        "log and curves my run/",
        "next fcos-train demo 'my run/best_bbox_mAP_epoch_3.pth' --img FILE_OR_FOLDER",
        "fcos-train export 'my run/best_bbox_mAP_epoch_3.pth'",
    ]


def test_the_command_on_a_terminal(shapes, tmp_path):
    """The real command; with ``--progress lines`` the same terminal gets the log lines (test_work_dirs reads those)."""
    run = tmp_path / "run"
    status, raw = run_on_terminal(
        "train", "fcos/fcos_tiny_shapes", "--data-path", shapes, "--work-dir", run, "--max-epochs", 1, "--seed", 0,
        "--device", "cpu", "--opt-level", "O0", "--workers", 0,
    )  # fmt: skip
    lines = [" ".join(line.split()) for line in screen(raw) if line]
    assert status == 0 and raw.count("\x1b[?25l") <= raw.count("\x1b[?25h"), raw[-2000:]
    (epoch,) = [line for line in lines if line.startswith("epoch 1/1 loss ")]
    assert "images/s" in epoch and " cls " in epoch
    assert any(line.startswith("│ triangle │") for line in lines) and any("AR100" in line for line in lines)
    assert any(line.startswith(f"next fcos-train demo {run}/") for line in lines)
    assert not any("Epoch [" in line or "Average Precision" in line for line in lines)
    (log,) = run.glob("*.log")
    text = log.read_text()
    assert all(part in text for part in ("Epoch [1][6/6]\tlr: ", "FPS: ", "Epoch(val) [1][8]\t", "Average Precision"))
