"""The demo as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from fcos_train.cli.main import main
from fcos_train.data.images import read_image
from fcos_train.infer import demo as demo_module
from fcos_train.infer.demo import DemoOptions, default_image, demo
from fcos_train.infer.images import write_image
from mmcv_overrides.errors import UserError
from tests.support.commands import run_script

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def checkpoint(config, make_checkpoint):
    return str(make_checkpoint(config))


def run(*arguments: str) -> int:
    return main(["demo", *arguments])


def test_folder(checkpoint, picture, tmp_path, capsys):
    for name in ("one.png", "two.jpg"):
        write_image(tmp_path / "in" / name, picture)
    out = tmp_path / "out"
    assert (
        run(checkpoint, "--img", str(tmp_path / "in"), "--show-dir", str(out), "--score-thr", "0", "--device", "cpu")
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("device cpu")
    assert lines[1].startswith(f"{tmp_path}/in/one.png: ") and " objects: " in lines[1] and lines[1].endswith(" ms")
    assert lines[-1] == f"pictures in {out}/ (2 files, *_pred.*)"
    drawn = read_image(out / "one_pred.jpg")
    assert drawn.shape == (96 * 4, 120 * 4, 3)
    plain = cv2.resize(picture, None, fx=4, fy=4, interpolation=cv2.INTER_CUBIC)
    assert np.abs(drawn.astype(int) - plain).mean() > 1  # something is drawn


def test_folder_with_images_that_cannot_be_drawn(checkpoint, picture, tmp_path, capsys):
    """The others are drawn; the broken ones are named at the end. A strip of one pixel is drawn like any image."""
    for name, image in (("a.png", picture), ("c.png", picture), ("strip.png", np.full((1, 2000, 3), 80, np.uint8))):
        write_image(tmp_path / "in" / name, image)
    (tmp_path / "in" / "b.jpg").write_bytes(b"")
    out = tmp_path / "out"
    assert run(checkpoint, "--img", str(tmp_path / "in"), "--show-dir", str(out), "--device", "cpu") == 2
    said = capsys.readouterr()
    assert sorted(path.name for path in out.iterdir()) == ["a_pred.jpg", "c_pred.jpg", "strip_pred.jpg"]
    assert said.out.splitlines()[-1] == f"pictures in {out}/ (3 files, *_pred.*)"
    reason = f"cannot read image {tmp_path}/in/b.jpg: it cannot be decoded: it is an empty file (0 bytes)"
    assert said.err == f"error: 1 image was skipped: {reason}\n"
    for name in ("a.png", "c.png", "strip.png"):
        (tmp_path / "in" / name).write_bytes(b"x")
    with pytest.raises(
        UserError, match="^4 images were skipped: cannot read image .*a.png.*; cannot read image .*b.jpg"
    ):
        demo(DemoOptions(checkpoint, str(tmp_path / "in"), show_dir=str(out), device="cpu"), lambda line: None)


def test_video(checkpoint, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5.0, (120, 96))
    for _ in range(3):
        writer.write(np.full((96, 120, 3), 90, np.uint8))
    writer.release()
    lines = []
    written = demo(DemoOptions(checkpoint, str(tmp_path / "v.avi"), show_dir=str(tmp_path)), lines.append)
    assert written == [tmp_path / "v_pred.avi"] and sum("frame" in line for line in lines) == 1
    capture = cv2.VideoCapture(str(written[0]))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    capture.release()


def test_without_an_image_and_without_a_display(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_module, "ROOT", tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    lines = []
    assert demo(DemoOptions(checkpoint, show=True), lines.append) == [Path("demo_shapes_pred.jpg")]
    assert any("generated" in line for line in lines)
    if sys.platform.startswith("linux"):
        assert any("no display" in line for line in lines)
    assert (tmp_path / "demo_shapes_pred.jpg").is_file()
    write_image(tmp_path / "demo" / "demo.jpg", np.zeros((32, 32, 3), np.uint8))
    assert demo(DemoOptions(checkpoint), lines.append) == [Path("demo_pred.jpg")]


def test_first_validation_image(config, tmp_path, picture, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_module, "ROOT", tmp_path)
    data = {
        "images": [
            {"id": 1, "file_name": "empty.jpg"},
            {"id": 2, "file_name": "gone.jpg"},
            {"id": 3, "file_name": "x.jpg"},
        ],
        "annotations": [{"image_id": 2}, {"image_id": 3}],
    }
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_val2017.json").write_text(json.dumps(data))
    image = write_image(tmp_path / "val2017" / "x.jpg", picture)
    assert default_image(config, tmp_path)[0] == tmp_path / "demo_shapes.jpg"
    config.val_dataloader.dataset.data_root = str(tmp_path)
    assert default_image(config, tmp_path) == (image, "the first validation image with an object")


def test_user_errors(checkpoint, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        demo(DemoOptions(checkpoint, str(tmp_path / "none.jpg")))
    with pytest.raises(UserError, match="between 0 and 1"):
        DemoOptions(checkpoint, score_thr=30)
    with pytest.raises(UserError, match="no such file"):
        demo(DemoOptions(str(tmp_path / "none.pth")))


def test_script_at_the_root(checkpoint, picture, tmp_path):
    pytest.importorskip("fcos_train.cli.main")
    image = write_image(tmp_path / "p.png", picture)
    script = [sys.executable, str(ROOT / "demo.py")]
    done = subprocess.run([*script, checkpoint, "--img", str(image)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "OneDL" not in done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "picture in p_pred.jpg" and (tmp_path / "p_pred.jpg").is_file()
    failed = run_script(ROOT / "demo.py", "none.pth", cwd=tmp_path)
    assert failed.returncode == 2 and failed.stderr.startswith("error: ") and "Traceback" not in failed.stderr
