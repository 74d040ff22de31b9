"""FPS as arithmetic, with a clock that the test moves."""

from types import SimpleNamespace

import pytest
import torch

from mmcv_overrides import device, timer


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Hub:
    def __init__(self):
        self.scalars, self.info = {}, {}

    def update_scalar(self, name, value):
        self.scalars.setdefault(name, []).append(value)

    def update_info(self, name, value):
        self.info[name] = value


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(timer.time, "perf_counter", clock)
    monkeypatch.setattr(timer, "CLOCKS", timer.Clocks())
    return clock


class Run:
    """A runner that iterates: ``wait`` s for data and ``step`` s of work per iteration."""

    def __init__(self, clock, length, epochs=1, interval=4, resumed_at=0):
        from mmcv_overrides.json_log import ContractLoggerHook

        self.clock, self.length = clock, length
        self.hook = timer.ClockHook()
        self.lines = []
        logger = SimpleNamespace(info=lambda text, extra=None: self.lines.append(text), warning=self.lines.append)
        self.runner = SimpleNamespace(
            message_hub=Hub(),
            iter=resumed_at,
            epoch=resumed_at // length,
            max_iters=epochs * length,
            hooks=[ContractLoggerHook(interval=interval)],
            train_dataloader=SimpleNamespace(__len__=lambda: length, num_workers=2),
            logger=logger,
            _resume=resumed_at > 0,
        )
        self.runner.train_dataloader = type("Loader", (), {"__len__": lambda _: length, "num_workers": 2})()

    def epoch(self, sizes, wait=0.1, step=0.9, pause_after=None, pause=0.0, start=0):
        self.hook.before_train_epoch(self.runner)
        for i, size in enumerate(sizes, start):
            batch = {"inputs": [None] * size}
            self.clock.now += wait
            self.hook.before_train_iter(self.runner, i, batch)
            self.clock.now += step
            self.hook.after_train_iter(self.runner, i, batch)
            self.runner.iter += 1
            if i == pause_after:
                with timer.paused():
                    self.clock.now += pause
        self.hook.after_train_epoch(self.runner)
        self.runner.epoch += 1


def test_first_five_iterations_are_warmup(clock):
    run = Run(clock, 15)
    run.hook.before_train(run.runner)
    run.epoch([8] * 15)
    # contracts: batch x (iters - 5) / sum of the iteration times after the fifth = 8 * 10 / 10 s
    assert pytest.approx(8.0) == timer.CLOCKS.fps
    assert pytest.approx(10.0) == timer.CLOCKS.train
    assert timer.CLOCKS.samples == 80
    assert run.lines[-1].endswith("FPS: 8.00")


def test_last_partial_batch_counts_what_it_holds(clock):
    run = Run(clock, 10)
    run.hook.before_train(run.runner)
    run.epoch([8] * 9 + [3])
    assert timer.CLOCKS.samples == 4 * 8 + 3
    assert pytest.approx(35 / 5) == timer.CLOCKS.fps


def test_samples_of_all_ranks_count(clock, monkeypatch):
    monkeypatch.setattr(timer, "get_world_size", lambda: 4)
    run = Run(clock, 10)
    run.hook.before_train(run.runner)
    run.epoch([2] * 10)
    assert pytest.approx(2 * 4 * 5 / 5) == timer.CLOCKS.fps


def test_checkpoint_and_evaluation_time_are_no_training_time(clock):
    run = Run(clock, 10)
    run.hook.before_train(run.runner)
    run.epoch([8] * 10, pause_after=6, pause=30.0)
    run.hook.before_val(run.runner)
    clock.now += 100.0
    run.hook.after_val(run.runner)
    run.epoch([8] * 10)
    assert pytest.approx(10.0) == timer.CLOCKS.train
    assert pytest.approx(130.0) == timer.CLOCKS.paused
    assert pytest.approx(8.0) == timer.CLOCKS.fps
    assert run.runner.message_hub.scalars["train/time"] == pytest.approx([1.0] * 20)


def test_window_and_total_and_data_share(clock):
    run = Run(clock, 12, interval=4)
    run.hook.before_train(run.runner)
    run.epoch([8] * 12, wait=0.5, step=0.5)
    assert run.runner.message_hub.info["fps_window"] == pytest.approx(8.0)
    assert run.runner.message_hub.scalars["train/data_time"] == pytest.approx([0.5] * 12)
    assert any("50% of the training time is spent waiting for data" in line for line in run.lines)


def test_total_is_right_after_a_resume(clock, monkeypatch):
    run = Run(clock, 15, epochs=2)
    run.hook.before_train(run.runner)
    run.epoch([8] * 15)
    checkpoint = {}
    run.hook.before_save_checkpoint(run.runner, checkpoint)

    monkeypatch.setattr(timer, "CLOCKS", timer.Clocks())  # another process
    clock.now += 5000.0
    again = Run(clock, 15, epochs=2, resumed_at=15)
    again.hook.after_load_checkpoint(again.runner, checkpoint)
    again.hook.before_train(again.runner)
    again.epoch([8] * 15, step=1.9)
    # 80 images in 10 s, then 80 in 20 s; nothing of the 5000 s between, nothing of the warm-up
    assert pytest.approx(160 / 30) == timer.CLOCKS.fps


def test_too_short_a_run_says_so(clock):
    run = Run(clock, 3)
    run.hook.before_train(run.runner)
    run.epoch([8] * 3)
    assert timer.CLOCKS.fps == 0.0 and "no FPS" in run.lines[-1]


def test_a_simulated_device_has_no_speed(clock, monkeypatch):
    npu = SimpleNamespace(get_device_name=lambda: "Simulated NPU", synchronize=lambda: None)
    monkeypatch.setattr(torch, "npu", npu, raising=False)
    monkeypatch.setattr(device, "_current", device.ACCELERATORS["npu"])
    run = Run(clock, 15)
    run.hook.before_train(run.runner)
    run.epoch([8] * 15)
    assert run.runner.message_hub.info["fps"] is None and run.runner.message_hub.info["fps_window"] is None
    assert run.lines == ["Epoch [1] done: no FPS, Simulated NPU counts, its times mean nothing"]
    npu.get_device_name = lambda: "Ascend910B"
    run.hook.after_train_epoch(run.runner)
    assert run.lines[-1].endswith("FPS: 8.00")
