"""The benchmark of a training step: the same work for everybody, rows for who cannot run, no speed of a simulation."""

import json
from argparse import Namespace
from types import SimpleNamespace

import pytest
import torch

from mmcv_overrides import device
from mmcv_overrides.errors import UserError
from tests.support.commands import ROOT, ok, run_script

SCRIPT = ROOT / "benchmarks" / "train_step.py"
CPU = device.ACCELERATORS["cpu"]
TINY = "fcos/fcos_tiny_shapes"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import train_step

    return train_step


@pytest.fixture
def registered():
    from mmdet.utils import register_all_modules

    register_all_modules(init_default_scope=True)


def test_ours_and_mmdet_do_the_same_work(script, tmp_path):
    """Everybody but the compiler, from uint8 to updated weights: the first losses agree; the figures follow from each
    other; who cannot run on a CPU says so."""
    names = [name for name in script.CONTESTANTS if not name.startswith(("torchvision", "compile"))]
    command = ["--config", TINY, "--size", "64", "96", "--part", "train"]
    command += ["--batches", "1", "2", "--rounds", "3", "--out", str(tmp_path), "--contestants", *names]
    done = ok(run_script(SCRIPT, *command, cwd=SCRIPT.parent))
    (report,) = [json.loads(path.read_text()) for path in tmp_path.glob("*-train_step-*.json")]
    assert report["part"] == "train" and report["size"] == [64, 96] and report["torch"] == torch.__version__
    assert [(row["batch"], row["contestant"]) for row in report["rows"]] == [
        (b, name) for b in (1, 2) for name in names
    ]
    for batch in (1, 2):
        rows = {row["contestant"]: row for row in report["rows"] if row["batch"] == batch}
        assert [name for name, row in rows.items() if "absent" in row] == ["graph bf16", "graph of compiled bf16"]
        assert "needs --device cuda" in rows["graph bf16"]["absent"]
        ours, theirs = rows["eager fp32"], rows["mmdet fp32"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert rows["eager bf16"]["loss"] == pytest.approx(theirs["loss"], rel=0.02)
        assert sorted(ours["rounds_ms"])[1] == ours["ms"]
        assert ours["images_per_s"] == pytest.approx(1e3 * batch / ours["ms"])
        work = report["GFLOP of an image"]["mmdet"]
        assert ours["tflops"] == pytest.approx(ours["images_per_s"] * work / 1e3, rel=0.05)
        assert ours["share_of_peak"] == pytest.approx(ours["tflops"] / report["peak TFLOP/s"]["fp32"][0], rel=0.05)
        assert f"batch {batch}\n" in done.stdout


def test_forward_and_backward_alone(script, registered):
    """On ready tensors: the loss is mmdet's and no weight changes; a graph of the whole step has no such part."""
    scene = script.Scene(TINY, CPU, 2, (64, 96))
    for name in ("mmdet fp32", "eager fp32"):
        step = script.CONTESTANTS[name].build(scene, "step")
        losses = [float(step()) for _ in range(2)]
        assert losses[0] == losses[1], name
        assert losses[0] == pytest.approx(float(script.CONTESTANTS["mmdet fp32"].build(scene, "step")()), rel=1e-5)
    with pytest.raises(script.AbsentError, match="whole step"):
        script.CONTESTANTS["graph bf16"].build(scene, "step")


def test_work_of_an_image_is_that_of_its_convolutions(script, registered):
    """Forward; backward to the weights that learn and to the inputs that need it. Two operations a multiply-add."""
    import step_peers

    scene = script.Scene(TINY, CPU, 4, (64, 96))
    model, work = step_peers.MODELS.build(scene.model).train(), []

    def count(layer, inputs, output):
        products = output.numel() * layer.weight[0].numel()
        work.append(2 * products * (1 + layer.weight.requires_grad + inputs[0].requires_grad))

    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(count)
    data = step_peers.pseudo_collate(scene.of_one_image().items())
    model(**model.data_preprocessor(data, True), mode="loss")
    assert len(work) > 40 and script.flops_of_an_image("mmdet", scene) == sum(work)


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


def test_a_device_that_is_not_there_is_refused(script, capsys):
    assert script.main(["--device", "npu"]) == 2
    assert capsys.readouterr().err.startswith("error: device 'npu': ")
