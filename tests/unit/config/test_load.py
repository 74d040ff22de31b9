"""Configs are found by path, by name and in mmdet; their data are checked."""

import json
import shutil
from pathlib import Path

import pytest
from mmengine.config import Config, ConfigDict

from fcos_train.config import load
from fcos_train.config.dataset import data_of_config, loads_turned, point_at_data, use_clear_loading
from fcos_train.config.options import EvalOptions, TrainOptions
from fcos_train.data import resolve
from mmcv_overrides.errors import UserError


@pytest.mark.parametrize(
    "name", ["fcos/fcos_tiny_shapes", "fcos/fcos_tiny_shapes.py", "configs/fcos/fcos_tiny_shapes.py"]
)
def test_a_shipped_config_by_name(name):
    assert load.find_config(name).resolve() == load.config_folders()[""] / "fcos" / "fcos_tiny_shapes.py"


def test_a_config_of_mmdet():
    found = load.find_config("mmdet::retinanet/retinanet_r50_fpn_1x_coco")
    assert found.is_file() and found.name == "retinanet_r50_fpn_1x_coco.py"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("fcos/fcos_tiny_shape", "did you mean fcos/fcos_tiny_shapes"),
        ("fcos_tiny_shapes", "did you mean fcos/fcos_tiny_shapes"),
        ("mmdet::retinanet/retinanet_r50_fpn_1x_coc", "did you mean mmdet::retinanet/retinanet_r50_fpn_1x_coco"),
    ],
)
def test_an_unknown_name_gets_the_nearest(name, near):
    with pytest.raises(UserError, match=f"no config '{name}'.*{near}"):
        load.find_config(name)


def test_leaf_datasets_within_wrappers():
    leaf = ConfigDict(type="CocoDataset", ann_file="a.json")
    other = ConfigDict(type="CocoDataset", ann_file="b.json")
    wrapped = ConfigDict(
        type="RepeatDataset",
        dataset=dict(type="ConcatDataset", datasets=[leaf, dict(type="ClassBalanced", dataset=other)]),
    )
    assert [found.ann_file for found in load.leaf_datasets(wrapped)] == ["a.json", "b.json"]


@pytest.mark.parametrize(("name", "stem"), [("a/b/c.py", "c"), ("mmdet::x/y", "y"), ("fcos/z", "z")])
def test_a_run_is_named_after_its_config(name, stem):
    assert load.stem(name) == stem


def test_options_in_the_config_fill_only_what_was_not_given():
    special = {"data_path": "b", "max_iters": 5, "loss_scale": 8.0}
    given = TrainOptions(config="c.py", max_iters=7)
    filled = load.fill(given, {k: v for k, v in special.items() if k != "data_path"})
    assert (filled.max_iters, filled.loss_scale, filled.data_path) == (7, 8.0, None)


def test_an_evaluation_takes_the_data_path_alone(tmp_path):
    (tmp_path / "w.pth").touch()
    filled = load.fill(EvalOptions(None, str(tmp_path / "w.pth")), {"data_path": str(tmp_path), "max_iters": 5})
    assert filled.data_path == str(tmp_path)


def named(folder: Path, **leaf) -> Config:
    """A config that names the data set in ``folder`` itself."""
    loaders = {}
    for split in ("train", "val"):
        dataset = dict(
            type="CocoDataset",
            data_root=str(folder),
            ann_file=f"annotations/instances_{split}2017.json",
            data_prefix=dict(img=f"{split}2017/"),
            pipeline=[dict(type="LoadImageFromFile")],
            **leaf,
        )
        loaders[f"{split}_dataloader"] = dict(batch_size=1, dataset=dataset)
    return Config({**loaders, "val_evaluator": dict(type="CocoMetric"), "model": dict(bbox_head=dict(num_classes=80))})


def test_the_data_that_a_config_names_are_checked(shapes, tmp_path):
    cfg = named(shapes)
    spec = data_of_config(cfg, tmp_path, None)
    truth = json.loads((shapes / "annotations" / "instances_train2017.json").read_text())
    assert spec.classes == tuple(category["name"] for category in truth["categories"])
    assert spec.report.counts["train"]["images"] == len(truth["images"])
    assert data_of_config(named(shapes, metainfo=dict(classes=("circle",))), tmp_path, None).classes == ("circle",)


def test_other_data_sets_are_left_alone(shapes, tmp_path):
    cfg = named(shapes)
    cfg.train_dataloader.dataset["type"] = "CrowdHumanDataset"
    assert data_of_config(cfg, tmp_path, None) is None


def test_the_images_of_other_data_sets_are_looked_at(shapes, tmp_path, caplog):
    """Nothing of them is corrected, so what is wrong is logged before the run."""
    folder = shutil.copytree(shapes, tmp_path / "set")
    coco = json.loads((folder / "annotations" / "instances_train2017.json").read_text())
    for image in coco["images"]:
        image.update(width=2 * image["width"], height=2 * image["height"])
    for annotation in coco["annotations"]:
        annotation["bbox"] = [2 * side for side in annotation["bbox"]]
    coco["annotations"].append("not an object")
    (folder / "annotations" / "instances_train2017.json").write_text(json.dumps(coco))
    (folder / "train2017" / "shapes_000001.jpg").write_bytes(b"")
    cfg = named(folder)
    one = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type="ConcatDataset", datasets=[one, one])
    assert data_of_config(cfg, tmp_path, None) is None
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2 and all(str(folder) in line for line in lines)
    assert "1 images cannot be read: the run stops at them, e.g. shapes_000001.jpg: it cannot be decoded" in lines[0]
    assert "23 images have boxes that do not count in the image as it is loaded" in lines[1]
    assert "shapes_000002.jpg: 160x128, annotated 320x256" in lines[1]


@pytest.mark.parametrize(
    ("step", "turned"),
    [
        ({}, True),
        ({"color_type": "grayscale"}, True),
        ({"color_type": "unchanged"}, False),
        ({"color_type": "color_ignore_orientation"}, False),
    ],
)
def test_the_frame_is_that_of_the_pipeline(shapes, tmp_path, step, turned):
    """Boxes of the stored file stay where a pipeline does not turn images by their EXIF orientation."""
    image_of = pytest.importorskip("PIL.Image")
    folder = shutil.copytree(shapes, tmp_path / "set")
    exif = image_of.Exif()
    exif[274] = 6
    for file in folder.rglob("*.jpg"):
        with image_of.open(file) as picture:
            picture.load()
        picture.save(file, exif=exif)
    cfg = named(folder)
    for loader in ("train_dataloader", "val_dataloader"):
        cfg[loader].dataset.pipeline[0].update(step)
    assert loads_turned(cfg) == turned
    from_config, from_path = data_of_config(cfg, tmp_path / "a", None), resolve(folder, tmp_path / "b", turned=turned)
    for spec in (from_config, from_path):
        assert spec.report.counts["train"]["turned_boxes"] == (24 if turned else 0)
        image = json.loads(spec.train.ann_file.read_text())["images"][0]
        assert (image["width"], image["height"]) == ((128, 160) if turned else (160, 128))


def test_absent_annotations_are_an_error(tmp_path):
    with pytest.raises(UserError, match="no .*instances_train2017.json and no .*instances_val2017.json.*--data-path"):
        data_of_config(named(tmp_path), tmp_path, None)


def test_loaders_metrics_and_classes_follow_the_data(shapes, tmp_path):
    cfg = named(Path("elsewhere"), metainfo=dict(classes=("cat", "dog"), palette=[(1, 2, 3), (4, 5, 6)]))
    spec = resolve(shapes, tmp_path)
    notes = point_at_data(cfg, spec)
    leaf = cfg.train_dataloader.dataset
    assert (leaf.type, leaf.ann_file, leaf.data_root) == ("BoxDataset", str(spec.train.ann_file), None)
    assert leaf.metainfo == dict(classes=spec.classes)  # colours of other classes are gone
    assert cfg.val_evaluator == dict(type="FastCocoMetric", ann_file=str(spec.val.ann_file), metric="bbox")
    assert cfg.model.bbox_head.num_classes == len(spec.classes)
    assert notes == [
        f"classes cat, dog of the config -> {', '.join(spec.classes)} of the data set",
        f"num_classes 80 -> {len(spec.classes)}: the classes of the data set",
    ]


def test_images_are_loaded_with_a_clear_error():
    cfg = Config(dict(train_dataloader=dict(dataset=dict(pipeline=[dict(type="LoadImageFromFile", to_float32=True)]))))
    use_clear_loading(cfg)
    assert cfg.train_dataloader.dataset.pipeline[0] == dict(type="LoadImage", to_float32=True)
