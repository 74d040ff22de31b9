"""The real commands with ``--device npu`` on the real torch_npu; operators that would run on the host are refused."""

import pytest

from tests.support.commands import exact, log_records, ok, refused, run

pytestmark = pytest.mark.front_end
CONFIG = "fcos/fcos_tiny_shapes"


def train(npu, shapes, work_dir, *flags, run=None):
    command = [
        "train",
        CONFIG,
        "--data-path",
        shapes,
        "--work-dir",
        work_dir,
        "--seed",
        1,
        "--device",
        "npu",
        "--workers",
        0,
    ]
    return ok((run or npu.run)(*command, *flags))


@pytest.fixture(scope="module")
def trained(npu, shapes, tmp_path_factory):
    """A run of four steps at O1 with a static scale and a loader process, and its evaluation."""
    work_dir = tmp_path_factory.mktemp("front_end") / "o1"
    return train(
        npu, shapes, work_dir, "--max-iters", 4, "--opt-level", "O1", "--loss-scale", 32, "--workers", 1
    ), work_dir


def test_training_and_evaluation(trained):
    done, work_dir = trained
    assert "device npu: asked for" in done.stdout and "fixed-shape step: FCOS head" in done.stdout
    (record,) = log_records(work_dir)
    assert record["loss"] == pytest.approx(2.8, abs=0.3) and record["memory"] > 0
    assert len(log_records(work_dir, "val")) == 1


@pytest.mark.parametrize(
    "flags",
    [("--loss-scale", "dynamic"), ("--opt-level", "bf16"), ("--step-mode", "mmdet")],
    ids=lambda flags: flags[1],
)
def test_other_ways_to_train(npu, shapes, tmp_path, flags):
    train(npu, shapes, tmp_path, "--max-iters", 2, "--no-validate", *flags)
    (record,) = log_records(tmp_path)
    assert 0 < record["loss"] < 6 and 0 < record["grad_norm"] < 100


def test_the_same_losses_as_on_a_cpu(npu, shapes, tmp_path, trained):
    command = [
        "train",
        "tests/support/exact.py",
        "--data-path",
        shapes,
        "--seed",
        1,
        "--workers",
        0,
        "--opt-level",
        "O0",
    ]
    command += ["--max-iters", 3, "--no-validate", "--load-from", trained[1] / "latest.pth"]
    found = {}
    for device, start in (("npu", npu.run), ("cpu", run)):
        found[device] = exact(ok(start(*command, "--work-dir", tmp_path / device, "--device", device)))
    assert len(found["npu"]) == 3 and found["npu"].keys() == found["cpu"].keys()
    for key, (loss, images) in found["cpu"].items():
        assert found["npu"][key][1] == images
        assert found["npu"][key][0] == pytest.approx(loss, rel=1e-5), key


def test_two_ranks_over_hccl(npu, shapes, tmp_path):
    flags = ("--max-iters", 3, "--batch-size", 2)
    done = train(npu, shapes, tmp_path, *flags, run=lambda *args: npu.run_ranks(2, *args))
    assert "2 processes" in done.stdout
    (record,) = log_records(tmp_path)
    assert 0 < record["loss"] < 6 and len(log_records(tmp_path, "val")) == 1


def test_resume(npu, shapes, tmp_path, trained):
    done = train(npu, shapes, tmp_path, "--max-iters", 6, "--no-validate", "--resume", trained[1] / "latest.pth")
    assert "Epoch [1][6/6]" in done.stdout


def test_evaluation_as_on_a_cpu(npu, shapes, tmp_path, trained):
    flags = ("--data-path", shapes, "--workers", 0, "--cfg-options", "model.test_cfg.score_thr=0.0")
    found = {}
    for device, start in (("npu", npu.run), ("cpu", run)):
        out = tmp_path / device
        ok(start("eval", CONFIG, trained[1] / "latest.pth", "--device", device, "--work-dir", out, *flags))
        (found[device],) = log_records(out, "val") or log_records(out, "test")
    assert found["npu"]["bbox_AR_100"] == pytest.approx(found["cpu"]["bbox_AR_100"], abs=0.02)


def test_demo(npu, shapes, tmp_path, trained):
    image = next((shapes / "val2017").glob("*.jpg"))
    ok(npu.run("demo", trained[1] / "latest.pth", "--img", image, "--device", "npu", "--show-dir", tmp_path))
    assert list(tmp_path.glob("*.jpg"))


def test_ascends_libraries_are_not_found(npu, shapes, tmp_path):
    """torch_npu is installed but CANN's set_env.sh is not sourced: one line says so, and the CPU still works."""
    command = [
        "train",
        CONFIG,
        "--data-path",
        shapes,
        "--work-dir",
        tmp_path,
        "--workers",
        0,
        "--max-iters",
        1,
        "--no-validate",
    ]
    message = refused(npu.without_runtime(*command, "--device", "npu"))
    assert "importing torch_npu failed: ImportError: libhccl.so" in message and "set_env.sh" in message
    assert "set_env.sh" in npu.without_runtime("doctor").stdout
    ok(npu.without_runtime(*command, "--device", "cpu"))
