"""Train, evaluate, draw: the road of a first-time user, and that its numbers agree with each other."""

import json
import re
import subprocess
import sys

import cv2
import pytest

from tests.support.commands import ROOT, environment, log_records, ok, run

CONFIG = "fcos/fcos_tiny_shapes"


@pytest.fixture(scope="module")
def trained(shapes, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("run")
    done = ok(
        run(
            "train", CONFIG, "--data-path", shapes, "--work-dir", work_dir, "--seed", 0, "--workers", 0, "--max-epochs", 60,
            "--cfg-options", "train_cfg.val_interval=60", "optim_wrapper.optimizer.lr=0.004",
        )  # fmt: skip
    )
    return work_dir, done


def test_training_learns_and_leaves_what_users_look_for(trained):
    work_dir, done = trained
    names = {p.name for p in work_dir.iterdir()}
    assert {"latest.pth", "config.py", "epoch_60.pth"} <= names
    assert any(n.endswith(".log") for n in names) and any(n.endswith(".log.json") for n in names)
    losses = [r["loss"] for r in log_records(work_dir)]
    assert losses[-1] < 0.6 * losses[0]
    assert log_records(work_dir, "val")[-1]["bbox_mAP"] > 0.05
    assert re.search(r"^\S+ \S+ - mmdet - INFO - Epoch \[1\]\[\d+/6\]\tlr: .*, eta: .*, time: .*, data_time: ", done.stdout, re.MULTILINE)
    assert len(done.stdout.splitlines()) < 250 and max(map(len, done.stdout.splitlines())) < 600
    assert "OneDL" not in done.stdout + done.stderr


def test_fps_is_images_over_seconds(trained):
    work_dir, _ = trained
    records = log_records(work_dir)
    # an independent count: iterations after the fifth of every epoch, 4 images each, by the logged iteration times
    assert records[-1]["fps"] == pytest.approx(4 / records[-1]["time"], rel=0.5)


def test_eval_gives_the_mAP_of_the_training(trained, shapes, tmp_path):
    work_dir, _ = trained
    done = ok(run("eval", CONFIG, work_dir / "latest.pth", "--data-path", shapes, "--workers", 0, "--out", tmp_path / "m.json", "--work-dir", tmp_path))
    metrics = json.loads((tmp_path / "m.json").read_text())
    in_training = log_records(work_dir, "val")[-1]
    assert round(metrics["bbox_mAP"], 4) == pytest.approx(in_training["bbox_mAP"], abs=2e-4)
    assert sum(key.startswith("bbox_") for key in metrics) >= 12
    assert re.search(r"Epoch\(test\) \[\d+\]\[8\]\tbbox_mAP: ", done.stdout)
    for name in ("circle", "square", "triangle"):
        assert name in done.stdout


def test_eval_needs_no_config_nor_data_path(trained):
    work_dir, _ = trained
    done = ok(run("eval", "-", work_dir / "latest.pth", "--workers", 0))
    assert "bbox_mAP: " in done.stdout


def test_demo_draws_the_detections(trained, shapes, tmp_path):
    work_dir, _ = trained
    image = sorted((shapes / "val2017").iterdir())[0]
    command = [sys.executable, ROOT / "demo.py", work_dir / "latest.pth", "--img", image, "--show-dir", tmp_path, "--score-thr", "0.2"]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (drawn,) = tmp_path.glob("*_pred.jpg")
    picture, original = cv2.imread(str(drawn)), cv2.imread(str(image))
    zoom = picture.shape[0] // original.shape[0]  # small images are enlarged so that names can be read
    original = cv2.resize(original, None, fx=zoom, fy=zoom)
    assert picture.shape == original.shape
    assert (cv2.absdiff(picture, original) > 60).sum() > 500


def test_fine_tuning_keeps_what_fits(trained, shapes, tmp_path):
    work_dir, _ = trained
    done = ok(
        run("train", CONFIG, "--data-path", shapes, "--classes", "square", "circle", "--load-from", work_dir / "latest.pth", "--max-iters", 1,
            "--workers", 0, "--no-validate", "--work-dir", tmp_path)
    )  # fmt: skip
    assert re.search(r"conv_cls.* 3 ?-> ?2", done.stdout)
