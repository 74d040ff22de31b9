"""`eval --split` where the config itself names the data."""

import json
import shutil

import pytest
from mmengine.config import Config

from fcos_train.config.dataset import checked_data, loader_of_split
from fcos_train.config.options import EvalOptions
from mmcv_overrides.errors import UserError


@pytest.fixture
def named(shapes, tmp_path):
    """A config that names the generated set, with a test split of two images."""
    root = shutil.copytree(shapes, tmp_path / "set")
    path = root / "annotations" / "instances_val2017.json"
    data = json.loads(path.read_text())
    images = data["images"][:2]
    boxes = [a for a in data["annotations"] if a["image_id"] in {image["id"] for image in images}]
    path.with_name("test.json").write_text(json.dumps(dict(data, images=images, annotations=boxes)))

    def loader(ann_file, folder):
        dataset = dict(type="CocoDataset", data_root=str(root), ann_file=ann_file, data_prefix=dict(img=folder))
        return dict(dataset=dict(dataset, pipeline=[dict(type="LoadImageFromFile")]))

    return Config(
        dict(
            train_dataloader=loader("annotations/instances_train2017.json", "train2017"),
            val_dataloader=loader("annotations/instances_val2017.json", "val2017"),
            test_dataloader=loader("annotations/test.json", "val2017"),
            val_evaluator=dict(type="CocoMetric"),
            test_evaluator=dict(type="VOCMetric"),
        )
    )


def options(checkpoint, split):
    return EvalOptions(None, str(checkpoint), split=split)


@pytest.mark.parametrize(("split", "images"), [(None, 8), ("val", 8), ("train", 24), ("test", 2)])
def test_each_loader_has_its_split(named, tmp_path, split, images):
    (tmp_path / "x.pth").touch()
    spec = checked_data(named, options(tmp_path / "x.pth", split), tmp_path / "work")
    assert len(json.loads(spec.val.ann_file.read_text())["images"]) == images
    assert spec.report.splits[spec.val.name].counts["images"] == images


def test_the_test_loader_may_read_what_validation_reads(named, tmp_path):
    (tmp_path / "x.pth").touch()
    named.test_dataloader = named.val_dataloader
    spec = checked_data(named, options(tmp_path / "x.pth", "test"), tmp_path / "work")
    assert spec.val == spec.test and spec.val.ann_file.name == "instances_val2017.json"
    assert list(spec.report.splits) == ["train", "val"]


def test_a_data_set_that_is_not_checked(named, tmp_path):
    (tmp_path / "x.pth").touch()
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        named[loader].dataset.type = "LVISV1Dataset"
    assert checked_data(named, options(tmp_path / "x.pth", "val"), tmp_path / "work") is None
    before = named.test_dataloader
    loader_of_split(named, None)
    loader_of_split(named, "test")
    assert named.test_dataloader == before and named.test_evaluator.type == "VOCMetric"
    loader_of_split(named, "val")
    assert named.test_dataloader == named.val_dataloader and named.test_evaluator.type == "CocoMetric"
    with pytest.raises(UserError, match="--split train: the config reads something else than one COCO file"):
        loader_of_split(named, "train")
    named.val_evaluator = None
    with pytest.raises(UserError, match="--split val: the config has no val_dataloader and val_evaluator"):
        loader_of_split(named, "val")
