"""A run that was stopped and resumed ends exactly as one that was not."""

import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.support.commands import EXACT, ROOT, environment, exact, log_records, ok, refused, run, run_ranks

COMMON = ["--opt-level", "O0", "--seed", "0", "--batch-size", "4", "--no-validate"]


def train(data, work_dir, iters, *more, workers=0):
    return exact(
        ok(
            run(
                "train",
                EXACT,
                "--data-path",
                data,
                "--work-dir",
                work_dir,
                "--max-iters",
                iters,
                "--workers",
                workers,
                *COMMON,
                *more,
            )
        )
    )


@pytest.fixture(scope="module")
def straight_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("straight")


@pytest.fixture(scope="module")
def straight(shapes, straight_folder):
    """Ten iterations (an epoch has six) in one go, with a checkpoint at every second one."""
    every_second = ["default_hooks.checkpoint.interval=2", "default_hooks.checkpoint.by_epoch=False"]
    return train(
        shapes, straight_folder, 10, "--cfg-options", *every_second, "default_hooks.checkpoint.max_keep_ckpts=-1"
    )


@pytest.mark.parametrize("half", [4, 6, 8])
def test_resumed_losses_are_bitwise_equal(straight, straight_folder, shapes, tmp_path, half):
    """In the middle of the first epoch, at its end, and in the second."""
    second = train(shapes, tmp_path, 10, "--resume", straight_folder / f"iter_{half}.pth")
    assert second == {key: value for key, value in straight.items() if key[1] > half}
    assert len(second) == 10 - half  # every bit of every loss, and the very same images


def test_a_short_run_resumed_with_workers_is_the_long_one(straight, shapes, tmp_path):
    first = train(shapes, tmp_path, 8, workers=2)
    second = train(shapes, tmp_path, 10, "--resume", workers=2)
    assert sorted(second) == [(0, 9), (0, 10)] and {**first, **second} == straight


def test_two_ranks_resume_in_mid_epoch(shapes, tmp_path):
    def go(work_dir, iters, *more):
        args = ["train", EXACT, "--data-path", shapes, "--work-dir", work_dir, "--max-iters", iters, "--workers", 0]
        return exact(
            ok(run_ranks(2, *args, "--opt-level", "O0", "--seed", 0, "--batch-size", 2, "--no-validate", *more))
        )

    whole = go(tmp_path / "a", 4)
    parts = {**go(tmp_path / "b", 2), **go(tmp_path / "b", 4, "--resume")}
    assert parts == whole


def test_killed_in_mid_epoch_resumes_from_the_last_checkpoint(straight, shapes, tmp_path):
    command = [
        sys.executable, "-m", "fcos_train", "train", EXACT, "--data-path", shapes, "--work-dir", tmp_path,
        "--workers", "0", *COMMON, "--cfg-options", "default_hooks.checkpoint.interval=3",
        "default_hooks.checkpoint.by_epoch=False",
    ]  # fmt: skip
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("exact 0 8 "):
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / "iter_6.pth").is_file()
    resumed = train(shapes, tmp_path, 10, "--resume")
    assert sorted(resumed) == [(0, it) for it in range(7, 11)]
    assert all(resumed[key] == straight[key] for key in resumed)


def test_truncated_newest_falls_back_to_the_one_before(straight, straight_folder, shapes, tmp_path):
    folder = shutil.copytree(straight_folder, tmp_path / "run", symlinks=True)
    (folder / "iter_10.pth").unlink()
    newest = folder / "iter_8.pth"
    newest.write_bytes(newest.read_bytes()[:5000])
    args = ["train", EXACT, "--data-path", shapes, "--work-dir", folder, "--max-iters", 10, "--workers", 0, *COMMON]
    done = ok(run(*args, "--resume"))
    assert exact(done) == {key: value for key, value in straight.items() if key[1] > 6}
    assert "iter_8.pth" in done.stdout + done.stderr


def test_resume_restores_scale_and_clocks(shapes, tmp_path):
    def go(iters, *more):
        args = ["train", EXACT, "--data-path", shapes, "--work-dir", tmp_path, "--max-iters", iters, "--workers", 0]
        ok(
            run(
                *args,
                "--opt-level",
                "O1",
                "--seed",
                0,
                "--batch-size",
                2,
                "--no-validate",
                "--loss-scale",
                "dynamic",
                *more,
            )
        )
        return torch.load(tmp_path / "latest.pth", weights_only=True)

    first = go(12)
    time.sleep(3)
    second = go(24, "--resume")
    assert first["optimizer"]["loss_scaler"]["_growth_tracker"] == 12
    assert second["optimizer"]["loss_scaler"]["_growth_tracker"] == 24
    # warm-up of five iterations in each process: 2 x (12 - 5) x 2 images; the pause between is nobody's training time
    assert first["clocks"]["samples"] == 14 and second["clocks"]["samples"] == 28
    assert second["clocks"]["train"] < first["clocks"]["train"] * 2 + 3
    fps = [r["fps"] for r in log_records(tmp_path)][-1]
    assert fps == pytest.approx(28 / second["clocks"]["train"], rel=1e-3)


def test_resume_without_a_checkpoint_is_refused(shapes, tmp_path):
    message = refused(run("train", EXACT, "--data-path", shapes, "--work-dir", tmp_path, "--resume", *COMMON))
    assert "no readable checkpoint" in message
