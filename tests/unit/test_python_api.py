"""`from fcos_train import ...`: names, options, results; and the examples of docs/python.md."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

import fcos_train
from fcos_train import Detector, check_data, evaluate, export, train
from fcos_train.api import chosen
from fcos_train.config.options import TrainOptions
from fcos_train.data.shapes import make_shapes
from fcos_train.infer.detector import Detector as CheckpointDetector
from fcos_train.launch import batch_size
from mmcv_overrides.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text()


def test_import_is_quick():
    code = (
        "import sys, fcos_train; heavy = ['torch', 'mmdet', 'cv2', 'supervision', 'numpy'];"
        "print([m for m in heavy if m in sys.modules], sorted(fcos_train.__all__)); fcos_train.nonsense"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stdout == "[] ['Detector', '__version__', 'check_data', 'evaluate', 'export', 'train']\n"
    assert "AttributeError: module 'fcos_train' has no attribute 'nonsense'" in done.stderr
    assert all(hasattr(fcos_train, name) for name in fcos_train.__all__)


def test_options_are_those_of_the_command():
    given = chosen(
        TrainOptions, "train", config=Path("c.py"), classes=["a", "b"], allow_outside="/", max_iters=np.int64(3)
    )
    assert given == TrainOptions("c.py", classes=("a", "b"), allow_outside=("/",), max_iters=3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: train("x", max_epoch=1), r"^train\(\) has no option max_epoch \(did you mean max_epochs\?\)"),
        (lambda: train("x", xyz=1, qqq=2), r"^train\(\) has no option xyz, qqq; it has those of the command's --help"),
        (lambda: train("x", opt_level="O9"), "^--opt-level O9: choose from O0, O1, O2, bf16"),
        (lambda: train("x", max_epochs=2.5), "^--max-epochs 2.5: must be a whole number"),
        (lambda: train("x", max_epochs="2"), "^--max-epochs 2: must be a whole number"),
        (lambda: train("x", batch_size=True), "^--batch-size True: must be a whole number"),
        (lambda: train("x", validate="no"), "^--no-validate no: write true or false"),
        (lambda: train("x", seed=-1, device="tpu"), "^--device tpu: .*; --seed -1: must be between 0"),
        (lambda: train("nothing/of/that/name"), "nothing/of/that/name"),
        (lambda: train("fcos/fcos_tiny_shapes", devices=2, device="cpu"), "^devices=2: give work_dir, the folder in"),
        (lambda: evaluate("none.pth"), "^checkpoint none.pth: no such file"),
        (lambda: export("none.pth"), "none.pth: no such file"),
        (lambda: export(__file__, target="onxx"), "^--target onxx: choose from onnx, caffe"),
        (lambda: check_data("none"), "none"),
        (lambda: Detector("none.onnx"), "none.onnx: no such file"),
        (lambda: Detector(__file__, device="tpu"), "--device tpu"),
    ],
)
def test_faults_are_raised(call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        call()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """What the names of docs/python.md are after its examples, and the folder that they ran in."""
    folder = tmp_path_factory.mktemp("page")
    make_shapes(folder / "shapes", train=8, val=4, size=(128, 96), seed=0)
    names: dict = {}
    before = os.getcwd()
    os.chdir(folder)
    try:
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(compile(block, "docs/python.md", "exec"), names)
    finally:
        os.chdir(before)
    return names, folder


def test_examples_of_the_page(page):
    names, folder = page
    done = names["done"]
    assert done.work_dir == folder / "runs/shapes" and done.checkpoint.name == "epoch_1.pth"
    assert done.best_checkpoint.name.startswith("best_bbox_mAP") and done.best_checkpoint.is_file()
    assert names["metrics"]["bbox_mAP"] == pytest.approx(done.metrics["bbox_mAP"], abs=5e-4)
    assert (folder / "shapes.onnx").is_file() and names["exported"].path == Path("shapes.onnx")
    assert names["exported"].differences and max(names["exported"].differences.values()) < 0.01
    assert len(names["one"]) == len(names["same"]) > 0 and len(names["both"]) == 2
    np.testing.assert_allclose(names["one"].boxes, names["both"][0].boxes, atol=1e-3)
    assert names["picture"].shape == (96, 128, 3)
    assert (folder / "drawn.jpg").is_file() and (folder / "drawn_too.jpg").is_file()
    assert len(names["entries"]) == len(names["theirs"]) == len(names["scores"])
    assert [counts["images"] for counts in names["report"].counts.values()] == [8, 4]


def test_training_in_two_processes_with_the_largest_batch(page, tmp_path, monkeypatch, capfd):
    """The batch size, which another test measures, is that for two ranks; what the ranks wrote is returned."""
    asked = []
    monkeypatch.setattr(
        batch_size, "fitting_batch_size", lambda options, ranks: asked.append(ranks) or (3, "batch size 3")
    )
    options = dict(data_path=str(page[1] / "shapes"), device="cpu", report=False, max_iters=1, seed=0)
    done = train("fcos/fcos_tiny_shapes", work_dir=tmp_path, devices=2, batch_size="auto", **options)
    assert asked == [2] and "batch size 3\n" in capfd.readouterr().out
    assert Config.fromfile(tmp_path / "config.py").train_dataloader.batch_size == 3
    assert done.work_dir == tmp_path and done.checkpoint == tmp_path / "iter_1.pth"
    assert done.best_checkpoint.parent == tmp_path and done.metrics["bbox_mAP"] >= 0
    with pytest.raises(UserError, match="^devices=2: the training ended with status 2; what it said was printed"):
        train("fcos/fcos_tiny_shapes", work_dir=tmp_path / "2", devices=2, load_from=tmp_path / "config.py", **options)
    assert "config.py" in capfd.readouterr().err


def test_a_checkpoint_and_its_export(page, capsys):
    """Both are called alike and find the same; the fixed batch of an export is not ignored."""
    names, folder = page
    image = folder / "shapes/val2017/shapes_000001.jpg"
    ours, theirs = names["detector"](image), Detector(folder / "shapes.onnx")
    assert theirs.classes == names["detector"].classes and "onnx" in theirs.device_reason
    assert len(ours) > 5
    np.testing.assert_allclose(theirs(str(image)).boxes[:5], ours.boxes[:5], atol=0.01)
    assert len(theirs([image, image])) == 2
    with pytest.raises(UserError, match="a batch of 2 images: .*shapes.onnx takes one image at a time"):
        theirs([image, image], batch_size=2)
    with pytest.raises(UserError, match="--device cuda applies to checkpoints"):
        Detector(folder / "shapes.onnx", device="cuda")
    made = Detector.from_checkpoint(names["done"].checkpoint, device="cpu")
    assert isinstance(made.loaded, CheckpointDetector)
    np.testing.assert_array_equal(made(image).boxes, ours.boxes)


def test_the_command(page, tmp_path, capsys):
    from fcos_train.cli.main import main

    names, folder = page
    image = str(folder / "shapes/val2017/shapes_000001.jpg")
    for model in (names["done"].checkpoint, folder / "shapes.onnx"):
        out = tmp_path / Path(model).suffix
        words = ["predict", str(model), image, "--out", str(out), "--score-thr", "0", "--save", "json", "--slice", "96"]
        assert main(words) == 0
        said = capsys.readouterr().out.splitlines()
        assert said[-1].startswith(f"{out}/predictions.json (1 images, ")
        found = json.loads((out / "predictions.json").read_text())
        expected = Detector(model)(image, slice_wh=(96, 96)).to_coco(1)
        assert [{key: one[key] for key in expected[0]} for one in found["annotations"]] == expected
    assert main(["predict", str(folder / "shapes.onnx"), image, "--batch-size", "2"]) == 2
    assert main(["predict", str(folder / "shapes.onnx"), "--save", "json", image]) == 2
    assert "before the flags" in capsys.readouterr().err


def test_the_page_names_what_there_is():
    from fcos_train.infer.options import SAVED

    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == set(SAVED)
