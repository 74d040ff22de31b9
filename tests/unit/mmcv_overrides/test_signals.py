"""Signals in one process: who handles them when, which exception follows, and where a loop stops."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from mmengine.hooks import EMAHook, Hook

import mmcv_overrides
from mmcv_overrides import signals
from mmcv_overrides.signals import Interrupted, Stopped
from tests.support.toy_runner import Record, toy_runner

mmcv_overrides.activate()
INT, TERM, USR1, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP


@pytest.fixture(autouse=True)
def usual_handlers():
    """Those of a program in the foreground; a suite in the background ignores SIGINT."""
    before = {number: signal.getsignal(number) for number in signals.STOPPING}
    for number in before:
        signal.signal(number, signal.default_int_handler if number == INT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class SignalAt(Hook):
    """Sends a signal to this process in the middle of a step, or of a validation."""

    def __init__(self, number, step=None, batch=None):
        self.number, self.step, self.batch, self.validated = number, step, batch, 0

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.step:
            signal.raise_signal(self.number)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        self.validated += 1
        if batch_idx == self.batch:
            signal.raise_signal(self.number)


def run(folder, *hooks, **options):
    record = Record()
    runner = toy_runner(folder, record=record, **options)
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    return record.losses


@pytest.mark.parametrize(
    ("number", "saved", "code"),
    [(USR1, True, 0), (USR1, False, 138), (TERM, True, 143), (INT, True, 130), (HUP, True, 129)],
)
def test_status(number, saved, code) -> None:
    end = signals.stopped(number, saved)
    assert end.code == code and end.signal is number
    assert isinstance(end, KeyboardInterrupt) == (number == INT)


@pytest.mark.parametrize("step", [1, 4, 6, 8])
@pytest.mark.parametrize("number", [TERM, INT])
def test_a_training_stops_after_its_step_and_resumes_with_the_same_losses(tmp_path, step, number) -> None:
    """Four steps an epoch: in the middle, at the end, where schedulers by epoch step before, and in the second."""
    straight = run(tmp_path / "straight")
    with pytest.raises(Interrupted if number == INT else Stopped) as caught:
        run(tmp_path / "a", SignalAt(number, step))
    assert caught.value.code == 128 + number and caught.value.together
    name = f"epoch_{step // 4}.pth" if step % 4 == 0 else f"iter_{step}.pth"
    assert (tmp_path / "a" / "latest.pth").resolve().name == name
    assert run(tmp_path / "a", resume=True) == straight[step:]
    assert signal.getsignal(TERM) is signal.SIG_DFL and signal.getsignal(INT) is signal.default_int_handler


def test_by_iteration(tmp_path) -> None:
    runner = toy_runner(tmp_path, by_epoch=False, interval=100)
    runner._train_loop = dict(type="IterBasedTrainLoop", max_iters=7)
    runner.register_hook(SignalAt(USR1, 3))
    with pytest.raises(Stopped):
        runner.train()
    assert torch.load(tmp_path / "iter_3.pth", weights_only=True)["meta"]["iter"] == 3


def test_a_validation_ends_at_the_next_batch(tmp_path) -> None:
    at = SignalAt(USR1, batch=1)
    ema = EMAHook()
    with pytest.raises(Stopped) as caught:
        run(tmp_path, at, ema, scores=[0.1] * 4, interval=9)
    assert (caught.value.code, at.validated) == (0, 2)
    meta = torch.load(tmp_path / "iter_4.pth", weights_only=True)["meta"]
    assert (meta["iter"], meta["epoch"]) == (4, 1)


def test_the_trained_weights_are_put_back_after_a_validation_of_averaged_ones(tmp_path) -> None:
    runner = toy_runner(tmp_path, scores=[0.1] * 4, interval=9)
    runner.register_hook(EMAHook(momentum=0.5))
    runner.register_hook(SignalAt(TERM, batch=0))
    trained = []

    class Keep(Hook):
        def after_train_epoch(self, runner):
            trained.append(runner.model.body.weight.detach().clone())

    runner.register_hook(Keep())
    with pytest.raises(Stopped):
        runner.train()
    assert torch.equal(runner.model.body.weight, trained[0])


def test_accumulated_gradients_are_not_lost(tmp_path) -> None:
    wrapper = dict(optimizer=dict(type="SGD", lr=0.05), accumulative_counts=3)
    runner = toy_runner(tmp_path, interval=9)
    runner.optim_wrapper = wrapper
    runner.register_hook(SignalAt(TERM, 1))
    with pytest.raises(Stopped):
        runner.train()
    assert (tmp_path / "iter_3.pth").is_file()


def test_the_checkpoint_of_a_stop_goes_when_a_later_one_is_written(tmp_path) -> None:
    with pytest.raises(Stopped):
        run(tmp_path, SignalAt(TERM, 2), max_keep_ckpts=1)
    assert (tmp_path / "iter_2.pth").is_file()
    run(tmp_path, max_keep_ckpts=1, resume=True)
    assert sorted(file.name for file in tmp_path.glob("*_*.pth")) == ["epoch_4.pth"]


def test_without_a_checkpoint_hook_nothing_is_said_to_be_saved(tmp_path) -> None:
    with pytest.raises(Stopped) as caught:
        run(tmp_path, SignalAt(USR1, 2), default_hooks=dict(checkpoint=None))
    assert caught.value.code == 138


def test_in_another_thread_signals_are_left_alone(tmp_path) -> None:
    seen = []

    def train() -> None:
        with signals.deferred():
            seen.append((signal.getsignal(TERM), signals.requested()))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [(signal.SIG_DFL, 0)]


def test_before_the_steps_a_signal_raises_and_ignored_ones_stay_ignored() -> None:
    signal.signal(HUP, signal.SIG_IGN)
    with pytest.raises(Stopped) as caught, signals.handled():
        signal.raise_signal(HUP)
        signal.raise_signal(USR1)
    assert caught.value.code == 138 and not caught.value.together


def test_the_handler_of_the_program_is_called_at_the_end() -> None:
    told = []
    signal.signal(USR1, lambda *_: told.append("own"))
    with signals.deferred():
        signal.raise_signal(USR1)
        assert told == [] and signals.requested() == USR1
    assert told == ["own"]


def test_a_late_ctrl_c_is_not_lost_to_the_program_around() -> None:
    with pytest.raises(KeyboardInterrupt), signals.deferred():
        signal.raise_signal(INT)
    with signals.handled(done_is_success=True), signals.deferred():
        signal.raise_signal(INT)


PROGRAM = """
import os, signal, subprocess, sys, time
from mmcv_overrides import signals
with signals.deferred():
    kid = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(kid.pid, flush=True)
    {wait}
"""


@pytest.mark.parametrize(
    "wait", ["time.sleep(60)", "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"]
)
def test_a_second_signal_ends_at_once(wait) -> None:
    """Also while the main thread is in a C function; with what the process has started, and without a traceback."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(wait=wait)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(INT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    kid = int(process.stdout.readline())
    process.send_signal(TERM)
    process.send_signal(TERM)  # of one kind of event: counts once
    time.sleep(signals.REPEATED_S + 0.5)
    assert process.poll() is None
    process.send_signal(INT)
    error = process.communicate(timeout=10)[1]
    assert process.returncode == 130 and "ended at once by SIGINT" in error and "Traceback" not in error
    end = time.monotonic() + 5
    while lives(kid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not lives(kid)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False
