"""The test split of a data set in any layout: read when it is asked for, and never for training."""

import json
import os
import shutil
from pathlib import Path

import pytest

from fcos_train.cli.main import main
from fcos_train.data import resolve
from mmcv_overrides.errors import UserError
from tests.support.tool_sets import coco, picture, voc_set, xml

SPLITS = {"train": ["a.rf.1.jpg", "b.rf.2.jpg", "c.rf.3.jpg"], "valid": ["d.rf.4.jpg"], "test": ["e.rf.5.jpg"]}


def roboflow_coco(root):
    for split, names in SPLITS.items():
        data = coco(names)
        data["categories"] = [
            {"id": 0, "name": "animals", "supercategory": "none"},
            {"id": 1, "name": "cat", "supercategory": "animals"},
        ]
        data["info"], data["licenses"] = {"description": "Exported"}, [{"id": 1, "name": "CC BY 4.0", "url": ""}]
        (root / split).mkdir(parents=True)
        (root / split / "_annotations.coco.json").write_text(json.dumps(data))


def roboflow_voc(root):
    for split, names in SPLITS.items():
        (root / split).mkdir(parents=True)
        for name in names:
            (root / split / name.replace(".jpg", ".xml")).write_text(xml(name))


def roboflow_yolo(root):
    for split, names in SPLITS.items():
        (root / split / "labels").mkdir(parents=True)
        for name in names:
            line = f"0 {14 / 64} {14 / 48} {20 / 64} {16 / 48}\n"  # the same box of 4, 6, 20, 16 px
            (root / split / "labels" / name.replace(".jpg", ".txt")).write_text(line)
    parts = "".join(f"{key}: ../{split}/images\n" for key, split in zip(("train", "val", "test"), SPLITS))
    (root / "data.yaml").write_text(f"{parts}\nnc: 1\nnames: ['cat']\n\nroboflow:\n  workspace: w\n  version: 1\n")


def export(root, make):
    make(root)
    for split, names in SPLITS.items():
        for name in names:
            picture(root / split / ("images" if make is roboflow_yolo else "") / name)
    (root / "README.dataset.txt").write_text("x")
    return root


@pytest.mark.parametrize("make", [roboflow_coco, roboflow_voc, roboflow_yolo])
def test_exports_of_roboflow(tmp_path, make):
    root = export(tmp_path / "set", make)
    spec = resolve(root, tmp_path / "cache", test=True)
    assert spec.layout == make.__name__.split("_")[1].upper() and spec.classes == ("cat",)
    for split, part in (("train", spec.train), ("valid", spec.val), ("test", spec.test)):
        data = json.loads(part.ann_file.read_text())
        assert [image["file_name"] for image in data["images"]] == SPLITS[split]
        assert [a["bbox"] for a in data["annotations"]] == [[4, 6, 20, 16]] * len(SPLITS[split])
        assert all((part.img_dir / name).is_file() for name in SPLITS[split])
    assert not spec.report.warnings
    unread = resolve(root, tmp_path / "cache")
    assert unread.test is None and list(unread.report.splits) == ["train", "val"]
    assert "the test split is not read for training; fcos-train eval --split test evaluates it" in unread.report.notes


@pytest.mark.parametrize("make", [roboflow_coco, roboflow_voc, roboflow_yolo])
def test_without_validation_the_test_split_validates(tmp_path, make):
    root = export(tmp_path / "set", make)
    shutil.rmtree(root / "valid")
    if make is roboflow_yolo:
        text = (root / "data.yaml").read_text().replace("val: ../valid/images\n", "")
        (root / "data.yaml").write_text(text)
    spec = resolve(root, tmp_path / "cache", test=True)
    assert spec.test == spec.val and spec.report.counts["val"]["images"] == 1
    assert "the test split is also the validation split" in spec.report.notes


def test_lists_of_voc(tmp_path):
    root = voc_set(tmp_path / "set", ("a", "b", "c"))
    (root / "ImageSets" / "Main" / "test.txt").write_text("b\n")
    (root / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ndog:1,2,3::\ncat:4,5,6::\n"
    )
    spec = resolve(root, tmp_path / "cache", test=True)
    assert spec.classes == ("dog", "cat")  # as listed; not the background
    assert spec.report.counts["test"]["images"] == 1
    assert "1 images are in train and test (e.g. b.jpg): the mAP will be too high" in spec.report.warnings
    assert resolve(root, tmp_path / "cache").report.counts.keys() == {"train", "val"}


def test_check_data_reports_the_test_split(tmp_path, capsys):
    root = export(tmp_path / "set", roboflow_coco)
    (root / "test" / SPLITS["test"][0]).write_bytes(b"no image")
    assert main(["check-data", str(root), "--decode"]) == 2
    assert "error: test: only 0 of the 1 images" in capsys.readouterr().err
    picture(root / "test" / SPLITS["test"][0])
    assert main(["check-data", str(root), "--decode"]) == 0
    assert "test: 1 images decoded, 0 unreadable" in capsys.readouterr().out


def test_classes_of_the_test_split_that_training_lacks(tmp_path):
    root = export(tmp_path / "set", roboflow_voc)
    name = SPLITS["test"][0]
    (root / "test" / name.replace(".jpg", ".xml")).write_text(xml(name, name="dog"))
    resolve(root, tmp_path / "cache")
    with pytest.raises(UserError, match=r"test has classes that training lacks: \{dog\}.*Test classes: \{dog\}"):
        resolve(root, tmp_path / "cache", test=True)


def test_several_files_may_be_the_test_split(tmp_path):
    root = export(tmp_path / "set", roboflow_coco)
    (root / "annotations").mkdir()
    for split, name in (("train", "my_train"), ("valid", "my_val"), ("test", "a_test"), ("test", "b_test")):
        shutil.copy(root / split / "_annotations.coco.json", root / "annotations" / f"{name}.json")
        os.makedirs(root / "images", exist_ok=True)
    for file in root.glob("*/_annotations.coco.json"):
        file.unlink()
    resolve(root, tmp_path / "cache")  # training does not ask
    with pytest.raises(UserError, match="several files may hold the test annotations"):
        resolve(root, tmp_path / "cache", test=True)
    assert Path(root / "test").is_dir()
