"""Mistakes of users: one clear message, exit status 2, no partial output."""

import json
import os
import pickle
import shutil

import pytest
import torch

from tests.support.commands import ROOT, ok, refused, run

CONFIG = "fcos/fcos_tiny_shapes"


def train(*args, **kwargs):
    return run("train", CONFIG, *args, "--max-iters", 1, "--workers", 0, "--no-validate", **kwargs)


@pytest.fixture
def data(shapes, tmp_path):
    return shutil.copytree(shapes, tmp_path / "data")


def edit(data, split, change):
    file = data / "annotations" / f"instances_{split}2017.json"
    coco = json.loads(file.read_text())
    change(coco)
    file.write_text(json.dumps(coco))


def test_missing_data_path(tmp_path):
    assert "no such file or folder" in refused(train("--data-path", tmp_path / "nothing"))


def test_wrong_layout(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(b"x")
    message = refused(train("--data-path", tmp_path, "--work-dir", tmp_path / "w"))
    assert str(tmp_path) in message


def test_no_data_at_all_names_the_way_out(tmp_path):
    message = refused(train("--work-dir", tmp_path / "w", cwd=tmp_path))
    assert "--data-path" in message and "instances_train2017.json" in message


def test_zero_usable_images_shows_both_class_lists(data, tmp_path):
    message = refused(train("--data-path", data, "--classes", "person", "car", "--work-dir", tmp_path / "w"))
    assert all(name in message for name in ("circle", "square", "triangle", "person", "car"))


def test_category_mismatch_between_the_splits(data, tmp_path):
    edit(data, "val", lambda coco: coco["categories"][0].update(name="hexagon"))
    message = refused(train("--data-path", data, "--work-dir", tmp_path / "w"))
    assert "hexagon" in message and "circle" in message


def test_unreadable_image_is_named(data, tmp_path):
    for image in (data / "train2017").iterdir():
        image.write_bytes(b"not a picture")
    message = refused(train("--data-path", data, "--work-dir", tmp_path / "w"))
    assert "only 0 of the 24 images" in message and ".jpg: it cannot be decoded" in message


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("optim_wraper.optimizer.lr=0.1", "optim_wrapper"),
        ("train_dataloader.batchsize=2", "batch_size"),
        ("optim_wrapper.clip_gradd.max_norm=1", "clip_grad"),
        ("model.bbox_head.stacked_conv=2", "stacked_convs"),
    ],
)
def test_config_typos_are_answered(data, tmp_path, option, expected):
    message = run("train", CONFIG, "--data-path", data, "--work-dir", tmp_path / "w", "--cfg-options", option)
    assert message.returncode == 2 and expected in message.stderr and "Traceback" not in message.stderr


def test_old_keys_are_translated_with_a_notice(data, tmp_path):
    done = ok(
        run("train", CONFIG, "--workers", 0, "--no-validate", "--work-dir", tmp_path / "w", "--max-iters", 1,
            "--cfg-options", "optimizer.lr=0.00125", "data.samples_per_gpu=2", "total_epochs=1",
            "optimizer_config.grad_clip.max_norm=20", f"data_root={data}")
    )  # fmt: skip
    for old in (
        "optimizer.lr",
        "data.samples_per_gpu",
        "total_epochs",
        "optimizer_config.grad_clip.max_norm",
        "data_root",
    ):
        assert f"{old} ->" in done.stdout
    assert "learning rate 0.00125 as given" in done.stdout


def test_unknown_flag_and_config(tmp_path):
    assert "--batch-size" in refused(run("train", CONFIG, "--batchsize", 2))
    assert "fcos_r50_caffe_fpn_4x4_1x_coco" in refused(run("train", "fcos/fcos_r50_cafe_fpn_4x4_1x_coco"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_unavailable_device(data):
    message = refused(train("--data-path", data, "--device", "cuda"))
    assert "device 'cuda': " in message and message.rstrip().endswith("(flag: --device)")


def test_pretrained_weights_out_of_reach(data, tmp_path):
    options = [
        "--cfg-options",
        "model.backbone.init_cfg.type=Pretrained",
        f"model.backbone.init_cfg.checkpoint={tmp_path}/no.pth",
    ]
    message = refused(train("--data-path", data, "--work-dir", tmp_path / "w", *options))
    assert "no.pth" in message and "--pretrained none" in message
    done = ok(train("--data-path", data, "--work-dir", tmp_path / "w", "--pretrained", "auto", *options))
    assert "WARNING: training ResNet from random weights" in done.stdout


class Bomb:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


# every format by some door; the formats times the reading functions are in the unit tests
@pytest.mark.parametrize(
    ("entry", "kind"), [("demo", "zip"), ("eval", "pickle"), ("resume", "legacy"), ("load-from", "zip")]
)
def test_malicious_checkpoint_executes_nothing(shapes, tmp_path, entry, kind):
    marker, file = tmp_path / "executed", tmp_path / "evil.pth"
    content = {"state_dict": {"w": torch.zeros(1)}, "meta": Bomb(marker)}
    if kind == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=kind == "zip")
    commands = {
        "demo": ["demo", file],
        "eval": ["eval", CONFIG, file, "--data-path", shapes, "--work-dir", tmp_path / "w"],
        "resume": ["train", CONFIG, "--data-path", shapes, "--work-dir", tmp_path / "w", "--resume", file],
        "load-from": ["train", CONFIG, "--data-path", shapes, "--work-dir", tmp_path / "w", "--load-from", file],
    }
    message = refused(run(*commands[entry]))
    assert "evil.pth" in message and "--trust-checkpoint" in message
    assert not marker.exists()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="mounting a small tmpfs needs root")
def test_disk_full_while_saving_keeps_the_old_checkpoint(shapes, tmp_path):
    import subprocess

    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", small]).returncode:
        pytest.skip("mounting a tmpfs is not permitted here")
    try:
        ok(train("--data-path", shapes, "--work-dir", small))
        old = (small / "latest.pth").resolve()
        before = old.read_bytes()
        (small / "filler").write_bytes(
            b"0" * (12 * 2**20 - sum(p.stat().st_size for p in small.rglob("*") if p.is_file()) - 2**20)
        )
        done = run(
            "train",
            CONFIG,
            "--data-path",
            shapes,
            "--work-dir",
            small,
            "--max-iters",
            3,
            "--workers",
            0,
            "--no-validate",
            "--resume",
        )
        assert "space" in refused(done)
        assert old.read_bytes() == before and (small / "latest.pth").resolve() == old
        assert not [p for p in small.iterdir() if "saving" in p.name or p.name.startswith("iter_3")]
        torch.load(old, weights_only=True)
    finally:
        subprocess.run(["umount", small], check=True)


def test_no_path_of_a_machine_in_the_repository():
    import subprocess

    found = subprocess.run(
        ["git", "grep", "-nIE", "/ho" + "me/[a-z]+/|/ro" + "ot/"], cwd=ROOT, capture_output=True, text=True
    )
    assert found.stdout == ""
