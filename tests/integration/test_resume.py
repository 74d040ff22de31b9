"""A run that was stopped and resumed ends exactly as one that was not."""

import re
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
def straight(shapes, tmp_path_factory):
    """Ten iterations (an epoch has six) in one go."""
    return train(shapes, tmp_path_factory.mktemp("straight"), 10)


@pytest.mark.parametrize(("half", "workers"), [(4, 0), (6, 0), (8, 0), (8, 2)])
def test_resumed_losses_are_bitwise_equal(straight, shapes, tmp_path, half, workers):
    first = train(shapes, tmp_path, half, workers=workers)
    second = train(shapes, tmp_path, 10, "--resume", workers=workers)
    assert sorted(second) == [(0, it) for it in range(half + 1, 11)]
    assert {**first, **second} == straight  # every bit of every loss, and the very same images


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


def test_truncated_newest_falls_back_to_the_one_before(straight, shapes, tmp_path):
    train(
        shapes,
        tmp_path,
        8,
        "--cfg-options",
        "default_hooks.checkpoint.interval=4",
        "default_hooks.checkpoint.by_epoch=False",
    )
    newest = tmp_path / "iter_8.pth"
    newest.write_bytes(newest.read_bytes()[:5000])
    done = ok(
        run(
            "train",
            EXACT,
            "--data-path",
            shapes,
            "--work-dir",
            tmp_path,
            "--max-iters",
            10,
            "--workers",
            0,
            *COMMON,
            "--resume",
        )
    )
    resumed = exact(done)
    assert sorted(resumed) == [(0, it) for it in range(5, 11)]
    assert all(resumed[key] == straight[key] for key in resumed)
    assert re.search(r"iter_8\.pth", done.stdout + done.stderr)


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
