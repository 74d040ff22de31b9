"""Train, evaluate, draw, as a first-time user does; the numbers of the three agree with each other."""

import json
import re
import shutil

import cv2
import pytest

from tests.support.commands import QUICK_LEVEL, ROOT, log_records, ok, run, run_script

CONFIG = "fcos/fcos_r18_fpn_shapes"


@pytest.fixture(scope="module")
def pictures(shapes, tmp_path_factory):
    """The same images for training and validation: what can be learned in half a minute is to know them again."""
    data = shutil.copytree(shapes, tmp_path_factory.mktemp("pictures") / "data")
    shutil.rmtree(data / "val2017")
    shutil.copytree(data / "train2017", data / "val2017")
    shutil.copy(data / "annotations" / "instances_train2017.json", data / "annotations" / "instances_val2017.json")
    return data


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp("run")
    scale = [
        f"{loader}_dataloader.dataset.pipeline.{i}.scale=(160,128)"
        for loader, i in (("train", 2), ("val", 1), ("test", 1))
    ]
    done = ok(
        run(
            "train", CONFIG, "--data-path", pictures, "--work-dir", work_dir, "--seed", 0, "--workers", 0,
            "--max-epochs", 50, "--opt-level", QUICK_LEVEL, "--cfg-options", "train_cfg.val_interval=50",
            "default_hooks.checkpoint.interval=50", *scale,
        )
    )  # fmt: skip
    return work_dir, done


def test_training_learns_and_leaves_what_users_look_for(trained):
    work_dir, done = trained
    names = {p.name for p in work_dir.iterdir()}
    assert {"latest.pth", "config.py", "epoch_50.pth"} <= names
    assert list((work_dir / "tb").rglob("events.out.tfevents.*"))
    assert any(n.endswith(".log") for n in names) and any(n.endswith(".log.json") for n in names)
    losses = [r["loss"] for r in log_records(work_dir)]
    assert losses[-1] < 0.6 * losses[0]
    assert log_records(work_dir, "val")[-1]["bbox_mAP"] > 0.1
    assert re.search(
        r"^\S+ \S+ - mmdet - INFO - Epoch \[1\]\[\d+/3\]\tlr: .*, eta: .*, time: .*, data_time: ",
        done.stdout,
        re.MULTILINE,
    )
    assert len(done.stdout.splitlines()) < 250 and max(map(len, done.stdout.splitlines())) < 600
    assert "OneDL" not in done.stdout + done.stderr


def test_eval_gives_the_mAP_of_the_training(trained, pictures, tmp_path):
    work_dir, _ = trained
    done = ok(
        run(
            "eval",
            "-",
            work_dir / "latest.pth",
            "--data-path",
            pictures,
            "--workers",
            0,
            "--out",
            tmp_path / "m.json",
            "--work-dir",
            tmp_path,
        )
    )
    metrics = json.loads((tmp_path / "m.json").read_text())
    in_training = log_records(work_dir, "val")[-1]
    assert round(metrics["bbox_mAP"], 4) == pytest.approx(in_training["bbox_mAP"], abs=2e-4)
    assert sum(key.startswith("bbox_") for key in metrics) >= 12
    assert re.search(r"Epoch\(test\) \[\d+\]\[24\]\tbbox_mAP: ", done.stdout)
    for name in ("circle", "square", "triangle"):
        assert name in done.stdout


def test_eval_needs_no_config_nor_data_path(trained):
    work_dir, _ = trained
    done = ok(run("eval", "-", work_dir / "latest.pth", "--workers", 0))
    assert "bbox_mAP: " in done.stdout


def test_demo_draws_the_detections(trained, pictures, tmp_path):
    work_dir, _ = trained
    image = sorted((pictures / "val2017").iterdir())[0]
    command = [work_dir / "latest.pth", "--img", image, "--show-dir", tmp_path, "--score-thr", "0.1"]
    ok(run_script(ROOT / "demo.py", *command, cwd=tmp_path))
    (drawn,) = tmp_path.glob("*_pred.jpg")
    picture, original = cv2.imread(str(drawn)), cv2.imread(str(image))
    zoom = picture.shape[0] // original.shape[0]  # small images are enlarged so that names can be read
    original = cv2.resize(original, None, fx=zoom, fy=zoom)
    assert picture.shape == original.shape
    assert (cv2.absdiff(picture, original) > 60).sum() > 500


def test_fine_tuning_keeps_what_fits(trained, shapes, tmp_path):
    work_dir, _ = trained
    done = ok(
        run("train", CONFIG, "--data-path", shapes, "--classes", "square", "circle", "--load-from",
            work_dir / "latest.pth", "--max-iters", 1, "--workers", 0, "--no-validate", "--work-dir", tmp_path)
    )  # fmt: skip
    assert re.search(r"conv_cls.* 3 ?-> ?2", done.stdout)
