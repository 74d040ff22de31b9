"""The benchmark of a training step: the same work for everybody, rows for who cannot run, no speed of a simulation."""

import json
import sys
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch

from mmcv_overrides import device
from mmcv_overrides.errors import UserError
from tests.support.commands import ROOT, _finish, ok, refused

SCRIPT = ROOT / "benchmarks" / "train_step.py"
CPU = device.ACCELERATORS["cpu"]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import train_step

    return train_step


@pytest.mark.parametrize("part", ["step", "train"])
def test_ours_and_mmdet_do_the_same_work(tmp_path, part):
    """Every contestant runs; the first losses agree; the figures follow from each other."""
    command = [sys.executable, str(SCRIPT), "--config", "fcos/fcos_tiny_shapes", "--size", "64", "96", "--batches", "1", "2"]
    done = ok(_finish([*command, "--rounds", "3", "--part", part, "--out", str(tmp_path)], None, 300, {}))
    (report,) = [json.loads(path.read_text()) for path in tmp_path.glob("*-train_step-*.json")]
    assert report["part"] == part and report["size"] == [64, 96] and report["torch"] == torch.__version__
    assert [row["batch"] for row in report["rows"]] == [1] * (len(report["rows"]) // 2) + [2] * (len(report["rows"]) // 2)
    for batch in (1, 2):
        rows = {row["contestant"]: row for row in report["rows"] if row["batch"] == batch}
        assert {name for name, row in rows.items() if "absent" in row} <= {n for n in rows if n.startswith("torchvision")}
        ours, theirs = rows["eager fp32"], rows["mmdet fp32"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert rows["eager bf16"]["loss"] == pytest.approx(theirs["loss"], rel=0.02)
        assert sorted(ours["rounds_ms"])[1] == ours["ms"]
        assert ours["images_per_s"] == pytest.approx(1e3 * batch / ours["ms"])
        work = report["GFLOP of an image"]["mmdet"]
        assert ours["tflops"] == pytest.approx(ours["images_per_s"] * work / 1e3, rel=0.05)
        assert ours["share_of_peak"] == pytest.approx(ours["tflops"] / report["peak TFLOP/s"]["fp32"][0], rel=0.05)
        assert f"batch {batch}\n" in done.stdout


def test_work_of_an_image_is_that_of_its_convolutions(script):
    """112.95 GFLOP for R50 with the GN head at 320x320, stem and first stage frozen; 0.113 TFLOP by hand."""
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=True)
    scene = script.Scene(script.CONFIG, CPU, 4, (320, 320))
    assert script.flops_of_an_image("mmdet", scene) == pytest.approx(112.95e9, rel=1e-3)


def contestant(script, monkeypatch, *outcomes):
    """A runner whose steps return or raise ``outcomes`` in turn."""
    turn = iter(outcomes)

    def step():
        outcome = next(turn)
        if isinstance(outcome, Exception):
            raise outcome
        return torch.tensor(outcome)

    monkeypatch.setitem(script.CONTESTANTS, "x", SimpleNamespace(family="mmdet", half=False, build=lambda *_: step))
    scene = SimpleNamespace(accelerator=CPU, batch=2)
    return script.Runner("x", scene, Namespace(steps=1, warmup=1, part="step"))


def test_who_cannot_run_has_a_row_that_says_so(script, monkeypatch):
    full = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    runner = contestant(script, monkeypatch, full)
    runner.time()
    assert runner.result(1e9, 1.0) == {"batch": 2, "contestant": "x", "absent": "out of memory"}
    second = RuntimeError("operation failed due to a previous error during capture")
    second.__context__ = full
    assert contestant(script, monkeypatch, second).row["absent"] == "out of memory"
    late = contestant(script, monkeypatch, 1.0, full)
    late.time()
    assert late.row["absent"] == "out of memory" and "x  " in script.table([late.result(1.0, 1.0)])
    assert contestant(script, monkeypatch, RuntimeError("a fault\nat length")).row["absent"] == "failed: a fault"
    assert contestant(script, monkeypatch, script.AbsentError("no such part")).row["absent"] == "no such part"


def test_peaks_are_the_data_sheets_or_measured(script, monkeypatch):
    import machine

    gpu = SimpleNamespace(name="cuda", title=lambda: "NVIDIA H200")
    assert machine.peak(gpu, True) == (989, "data sheet of the H200, 16 bit, dense")
    assert machine.peak(gpu, False)[0] == 495
    monkeypatch.setattr(machine, "measured_peak", lambda *_: 7.0)
    assert machine.peak(SimpleNamespace(name="cuda", title=lambda: "NVIDIA L4"), True)[0] == 7.0
    assert "measured" in machine.peak(CPU, True)[1]


def test_a_simulated_device_has_no_speed(script, monkeypatch):
    import machine

    npu = SimpleNamespace(get_device_name=lambda: "Simulated NPU")
    monkeypatch.setattr(torch, "npu", npu, raising=False)
    with pytest.raises(UserError, match="Simulated NPU counts.*run the benchmark on hardware"):
        machine.refuse_simulated(device.ACCELERATORS["npu"])
    npu.get_device_name = lambda: "Ascend910B"
    machine.refuse_simulated(device.ACCELERATORS["npu"])


def test_a_device_that_is_not_there_is_refused(script):
    command = [sys.executable, str(SCRIPT), "--device", "npu"]
    assert "npu" in refused(_finish(command, None, 300, {}))
