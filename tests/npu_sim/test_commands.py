"""The real commands with ``--device npu``: every precision, two ranks, resume, and checkpoints of another device."""

import json

import pytest

from tests.support.commands import exact, log_records, ok, refused, run, torchrun

CONFIG = "fcos/fcos_tiny_shapes"


def train(npu, shapes, work_dir, *flags, run=None, **env):
    command = ["train", CONFIG, "--data-path", shapes, "--work-dir", work_dir, "--seed", 1]
    command += ["--device", "npu", "--workers", 0]
    return ok((run or npu.run)(*command, *flags, **env))


@pytest.fixture(scope="module")
def trained(npu, shapes, tmp_path_factory):
    """A run of four steps at O1 with a static scale, and its evaluation."""
    work_dir = tmp_path_factory.mktemp("npu") / "o1"
    report = work_dir.parent / "counts"
    done = train(npu, shapes, work_dir, "--max-iters", 4, NPU_SIM_REPORT=str(report))
    return done, work_dir, report.with_name("counts.0")


def test_the_device_is_used_and_nothing_leaves_it_for_the_host(trained):
    done, work_dir, report = trained
    assert "device npu: asked for" in done.stdout
    (record,) = log_records(work_dir)
    assert record["loss"] == pytest.approx(2.8, abs=0.3) and record["memory"] > 0
    if report.is_file():  # only the simulated device writes it
        counts = json.loads(report.read_text())
        assert counts["not_native"] == []
        assert sum(counts["launches"].values()) > 1000
        assert "float64" not in counts["events"] and "channels_last" not in counts["events"]


@pytest.mark.parametrize(
    "flags",
    [("--loss-scale", "dynamic"), ("--opt-level", "bf16"), ("--opt-level", "O0"), ("--opt-level", "O2")],
    ids=lambda flags: flags[1],
)
def test_every_precision(npu, shapes, tmp_path, trained, flags):
    """The losses of O1, also after the first step has written weights back."""
    train(npu, shapes, tmp_path / "run", "--max-iters", 4, "--no-validate", *flags)
    (record,), (reference,) = log_records(tmp_path / "run"), log_records(trained[1])
    assert record["loss"] == pytest.approx(reference["loss"], rel=0.02)
    assert record["grad_norm"] == pytest.approx(reference["grad_norm"], rel=0.2)


def test_the_same_losses_as_on_a_cpu(npu, shapes, tmp_path, trained):
    """Both start from the same weights, because each device initialises with its own generator."""
    _, weights, _ = trained
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
    command += ["--max-iters", 3, "--no-validate", "--load-from", weights / "latest.pth"]
    found = {}
    for device, start in (("npu", npu.run), ("cpu", run)):
        done = ok(start(*command, "--work-dir", tmp_path / device, "--device", device))
        found[device] = exact(done)
    assert len(found["npu"]) == 3 and found["npu"].keys() == found["cpu"].keys()
    for key, (loss, images) in found["cpu"].items():
        assert found["npu"][key][1] == images
        assert found["npu"][key][0] == pytest.approx(loss, rel=1e-4), key


def test_two_ranks_over_hccl(npu, shapes, tmp_path):
    report = tmp_path / "counts"
    done = train(
        npu,
        shapes,
        tmp_path / "run",
        "--max-iters",
        3,
        "--batch-size",
        2,
        run=lambda *a, **env: npu.run_ranks(2, *a, **env),
        NPU_SIM_REPORT=str(report),
    )
    assert "2 processes" in done.stdout
    (record,) = log_records(tmp_path / "run")
    assert 0 < record["loss"] < 6
    for rank in (0, 1):
        file = report.with_name(f"counts.{rank}")
        if file.is_file():
            counts = json.loads(file.read_text())
            assert counts["not_native"] == [] and counts["events"]["collective:allreduce"] >= 3


def test_resume_goes_on_where_the_run_stopped(npu, shapes, tmp_path, trained):
    flags = ("--no-validate", "--opt-level", "O0")
    train(npu, shapes, tmp_path / "whole", "--max-iters", 5, *flags)
    train(npu, shapes, tmp_path / "parts", "--max-iters", 3, *flags)
    train(npu, shapes, tmp_path / "parts", "--max-iters", 5, "--resume", *flags)
    whole, parts = log_records(tmp_path / "whole")[-1], log_records(tmp_path / "parts")[-1]
    assert (whole["iter"], whole["epoch"]) == (parts["iter"], parts["epoch"])
    assert (tmp_path / "parts" / "iter_5.pth").is_file()
    assert parts["loss"] == pytest.approx(whole["loss"], rel=0.05)  # means over windows of different length


def test_a_checkpoint_moves_between_the_devices(npu, shapes, tmp_path, trained):
    _, work_dir, _ = trained
    flags = ("--data-path", shapes, "--workers", 0, "--cfg-options", "model.test_cfg.score_thr=0.0")
    scores = {}
    for device, command in (("npu", npu.run), ("cpu", run)):
        out = tmp_path / device
        ok(command("eval", CONFIG, work_dir / "latest.pth", "--device", device, "--work-dir", out, *flags))
        (record,) = log_records(out, "val") or log_records(out, "test")
        scores[device] = record
    assert scores["npu"]["bbox_AR_100"] == pytest.approx(scores["cpu"]["bbox_AR_100"], abs=0.02)
    command = [
        "train",
        CONFIG,
        "--data-path",
        shapes,
        "--work-dir",
        tmp_path / "cpu_run",
        "--seed",
        1,
        "--workers",
        0,
        "--max-iters",
        6,
    ]
    done = ok(
        run(*command, "--device", "cpu", "--opt-level", "O0", "--no-validate", "--resume", work_dir / "latest.pth")
    )
    assert "Epoch [1][6/6]" in done.stdout


def test_a_cpu_checkpoint_goes_on_on_the_npu(npu, shapes, tmp_path):
    train(npu, shapes, tmp_path, "--max-iters", 2, "--no-validate", "--opt-level", "O0", "--device", "cpu", run=run)
    done = train(npu, shapes, tmp_path, "--max-iters", 4, "--no-validate", "--resume")
    assert "Epoch [1][4/6]" in done.stdout


def test_demo(npu, shapes, tmp_path, trained):
    _, work_dir, _ = trained
    image = next((shapes / "val2017").glob("*.jpg"))
    ok(npu.run("demo", work_dir / "latest.pth", "--img", image, "--device", "npu", "--show-dir", tmp_path / "out"))
    assert list((tmp_path / "out").glob("*.jpg"))


def test_more_ranks_than_devices_are_refused(npu, shapes, tmp_path):
    command = ["train", CONFIG, "--data-path", shapes, "--work-dir", tmp_path, "--device", "npu", "--max-iters", 1]
    done = torchrun(2, *command, "--launcher", "pytorch", **npu.env, NPU_SIM_DEVICES="1")
    assert done.returncode != 0 and "2 processes on this node but 1 npu devices" in done.stderr


def test_no_device_is_a_clear_message(shapes, tmp_path):
    done = run("train", CONFIG, "--data-path", shapes, "--work-dir", tmp_path, "--device", "npu")
    assert "torch_npu" in refused(done)
