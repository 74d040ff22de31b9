"""One data set in COCO, VOC and YOLO layout trains alike, and `eval --split` reads the split that is asked for."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from fcos_train.config.options import EvalOptions
from fcos_train.data.convert import convert
from fcos_train.engine import run
from mmcv_overrides.errors import UserError
from tests.support.trainings import Training


@pytest.fixture(scope="module")
def data(shapes, tmp_path_factory):
    """The generated set with a test split of three images, in each layout."""
    root = tmp_path_factory.mktemp("layouts")
    coco = shutil.copytree(shapes, root / "shapes")
    (coco / "val2017").rename(coco / "images")
    for file in sorted((coco / "train2017").iterdir()):
        file.rename(coco / "images" / f"train_{file.name}")
    annotations = coco / "annotations"
    train = json.loads((annotations / "instances_train2017.json").read_text())
    for image in train["images"]:
        image["file_name"] = f"train_{image['file_name']}"
    (annotations / "instances_train2017.json").write_text(json.dumps(train))
    last = train["images"][-3:]
    kept = {image["id"] for image in last}
    boxes = [a for a in train["annotations"] if a["image_id"] in kept]
    (annotations / "instances_test2017.json").write_text(json.dumps(dict(train, images=last, annotations=boxes)))
    found = {"coco": coco}
    for to in ("voc", "yolo"):
        convert(coco, root / to, to, link=True)
        found[to] = root / to
    return found


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {name: Training(folder / name, root, "O0", steps=3) for name, root in data.items()}


def test_losses_to_the_last_digit(trained):
    assert len(trained["coco"].losses) == 3 and trained["coco"].losses[0] > 0.1
    assert trained["voc"].losses == trained["coco"].losses
    assert trained["yolo"].losses == trained["coco"].losses


@pytest.mark.parametrize("layout", ["coco", "voc", "yolo"])
def test_the_split_of_an_evaluation(data, trained, layout, tmp_path, monkeypatch):
    read = {}

    class Built:  # the parts of a runner that an evaluation uses
        _train_loop = _val_loop = _test_loop = None
        test_loop = SimpleNamespace(evaluator=SimpleNamespace(metrics=[]))

        def __init__(self, cfg, name):
            self.cfg = cfg
            file = cfg.test_dataloader.dataset.ann_file
            assert cfg.test_evaluator["ann_file"] == file
            read["images"] = len(json.loads(Path(file).read_text())["images"])
            self.logger = type("", (), {"info": staticmethod(lambda text: None), "handlers": ()})()

        def register_hook(self, hook):
            pass

        def test(self):
            return {}

    monkeypatch.setattr(run, "build_runner", Built)
    checkpoint = trained["coco"].checkpoint
    for split, count in ((None, 8), ("val", 8), ("train", 24), ("test", 3)):
        options = EvalOptions(
            None, checkpoint, str(data[layout]), str(tmp_path / "eval"), "cpu", split=split, report=False
        )
        run.evaluate(options)
        assert read["images"] == count, split


def test_a_set_without_a_test_split(shapes, trained, tmp_path):
    options = EvalOptions(
        None, trained["coco"].checkpoint, str(shapes), split="test", work_dir=str(tmp_path), device="cpu"
    )
    with pytest.raises(UserError, match="--split test: the COCO data set has no test split"):
        run.evaluate(options)


def test_the_numbers_of_the_test_split(data, trained, tmp_path):
    options = EvalOptions(
        None,
        trained["coco"].checkpoint,
        str(data["yolo"]),
        split="test",
        work_dir=str(tmp_path),
        workers=0,
        device="cpu",
    )
    assert 0 <= run.evaluate(options)["bbox_mAP"] <= 1
