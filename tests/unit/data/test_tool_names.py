"""File names of another machine, and layouts and names of annotation files of the usual tools."""

import json
import shutil

import pytest

from fcos_train.data import check_coco_files, resolve
from fcos_train.data.file_index import FileIndex
from mmcv_overrides.errors import UserError
from tests.support.tool_sets import coco, coco_set, picture, voc_set, xml


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("train\\a.jpg", "a.jpg"),
        ("D:\\work\\train\\A.JPG", "a.jpg"),
        ("/data/upload/1/a.jpg", "a.jpg"),
        ("..\\..\\media\\a.jpg", "a.jpg"),
        ("/data/local-files/?d=train/a.jpg", "a.jpg"),
        ("http://server/train/a.jpg?token=1", "a.jpg"),
        ("b%20c.png", "b c.png"),
        ("cafe\u0301.jpg", "café.jpg"),
        ("day1/x.jpg", "day1/x.jpg"),
        ("/srv/DAY2/x.jpg", "day2/x.jpg"),
        ("x.jpg", None),  # in two folders
        ("day3/x.jpg", None),
        ("d.jpg", "d.jpg"),
        ("D.JPG", None),  # d.jpg and D.jpg
        ("a.png", None),
        ("", None),
        ("..", None),
    ],
)
def test_the_one_file_that_a_name_means(name, found):
    files = ["a.jpg", "b c.png", "café.jpg", "day1/x.jpg", "day2/x.jpg", "d.jpg", "D.jpg"]
    assert FileIndex(files).find(name) == found


@pytest.mark.parametrize("prefix", ["train\\", "/data/upload/1/", "..\\..\\media\\", "C:\\x\\train\\"])
def test_sets_with_names_of_another_machine_are_read(tmp_path, prefix):
    spec = resolve(coco_set(tmp_path / "set", coco([prefix + "a.jpg", prefix + "B.JPG"])), tmp_path / "cache")
    counts = spec.report.counts["train"]
    assert (counts["images"], counts["missing_files"], counts["renamed_files"]) == (2, 0, 2)
    assert [i["file_name"] for i in json.loads(spec.train.ann_file.read_text())["images"]] == ["a.jpg", "b.jpg"]
    assert f"{prefix}a.jpg -> a.jpg" in "\n".join(spec.report.lines())


def test_a_config_that_names_its_files_reads_them_too(tmp_path):
    root = coco_set(tmp_path / "set", coco(["x\\a.jpg", "/b.jpg"]))
    report = check_coco_files(root / "annotations/instances_train.json", root / "train", cache_dir=tmp_path / "cache")
    assert report.counts["renamed_files"] == 2
    assert [i["file_name"] for i in json.loads(report.ann_file.read_text())["images"]] == ["a.jpg", "b.jpg"]


def test_a_file_is_not_given_to_two_images(tmp_path):
    """Of two folders only one was copied: whose a.jpg it is cannot be told."""
    root = coco_set(tmp_path / "set", coco(["cam1/a.jpg", "cam2/a.jpg", "b.jpg", "C:\\b.jpg"]))
    with pytest.raises(UserError, match="only 1 of the 4 images .* 3 have no file in .*train, e.g. cam1/a.jpg"):
        resolve(root, tmp_path / "cache")


def test_an_existing_file_outside_is_refused_although_its_name_is_inside(tmp_path):
    picture(tmp_path / "elsewhere" / "a.jpg")
    root = coco_set(tmp_path / "set", coco([str(tmp_path / "elsewhere" / "a.jpg"), "b.jpg"]))
    with pytest.raises(UserError, match="1 path leads outside the data folder"):
        resolve(root, tmp_path / "cache")


def test_images_of_another_split_are_not_taken(tmp_path):
    root = coco_set(tmp_path / "set", val=coco(["x\\a.jpg"]))
    with pytest.raises(UserError, match=r"instances_val.json was found, e.g. x\\a.jpg; looked in .*same base name"):
        resolve(root, tmp_path / "cache")
    (root / "annotations/instances_val.json").write_text(json.dumps(coco(["C:\\a.jpg"])))
    for folder in ("cam1", "cam2"):
        picture(root / "val" / folder / "a.jpg")
    with pytest.raises(UserError, match="several fit: cam1/a.jpg, cam2/a.jpg"):
        resolve(root, tmp_path / "cache")


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("annotations/train_annotations.json", "annotations/val_annotations.json"),
        ("annotations/coco-train.json", "annotations/coco-valid.json"),
        ("annotations/myproj_train.json", "annotations/myproj_val.json"),
        ("annotations/instances_Train.json", "annotations/instances_Val.json"),
        ("annotations/trainAnnotations2021.json", "annotations/valAnnotations2021.json"),
        ("Labels/training.json", "Labels/validation.json"),
        ("train_coco_v2.json", "val_coco_v2.json"),
        ("train/instances_default.json", "val/instances_default.json"),
        ("train/annotations/any.json", "val/annotations/any.json"),
        ("annotations/train/instances.json", "annotations/val/instances.json"),
        ("Train/_annotations.coco.json", "Valid/_annotations.coco.json"),
    ],
)
def test_names_of_annotation_files(tmp_path, train, val):
    root = coco_set(tmp_path / "set")
    moved = {"train": root / train, "val": root / val}
    for split, path in moved.items():
        if path.parts[-2] in ("Train", "Valid"):
            (root / split).rename(path.parent)
        path.parent.mkdir(parents=True, exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").rename(path)
    spec = resolve(root, tmp_path / "cache")
    assert (spec.train.ann_file, spec.val.ann_file) == (moved["train"], moved["val"])
    counts = spec.report.counts
    assert (counts["train"]["images"], counts["val"]["images"]) == (2, 1)


def test_several_files_of_a_split_are_not_guessed(tmp_path):
    root = coco_set(tmp_path / "set")
    for name in ("a_train", "b_train"):
        shutil.copy(root / "annotations/instances_train.json", root / "annotations" / f"{name}.json")
    assert resolve(root, tmp_path / "cache").train.ann_file.name == "instances_train.json"
    (root / "annotations/instances_train.json").unlink()
    with pytest.raises(UserError, match="several files may hold the train annotations: .*a_train.json, .*b_train.json"):
        resolve(root, tmp_path / "cache")


@pytest.mark.parametrize(
    ("files", "seen"),
    [
        (("annotations/instances_default.json",), "JSON files: annotations/instances_default.json. If .* lack a split"),
        (("result.json",), "JSON files: result.json. If .* lack a split"),
        (("train/_annotations.coco.json",), "train/_annotations.coco.json. but none for validation"),
        (("annotations/a.xml", "annotations/b.xml"), r"XML files: annotations/ \(2\). If .* ImageSets/Main/train.txt"),
        (("train/a.xml",), r"XML files: train/ \(1\)"),
    ],
)
def test_sets_without_a_split_are_named(tmp_path, files, seen):
    picture(tmp_path / "images" / "a.jpg")
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(xml() if name.endswith("xml") else json.dumps(coco(["a.jpg"])))
    with pytest.raises(UserError, match=f"(?s){seen}"):
        resolve(tmp_path, tmp_path / "cache")


@pytest.mark.parametrize(
    ("xmls", "images"),
    [
        ("{}", "{}"),  # Roboflow
        ("{}/annotations", "{}/images"),
        ("{}/Annotations", "{}/JPEGImages"),
        ("annotations/{}", "images/{}"),
        ("Annotations/{}", "JPEGImages/{}"),
    ],
)
def test_xml_in_a_folder_for_each_split(tmp_path, xmls, images):
    root = tmp_path / "set"
    for split, names in (("train", "ab"), ("valid", "c")):
        for name in names:
            picture(root / images.format(split) / f"{name}.jpg")
            path = root / xmls.format(split) / f"{name}.xml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(xml())
    spec = resolve(root, tmp_path / "cache")
    assert (spec.layout, spec.classes) == ("VOC", ("cat",))
    counts = spec.report.counts
    assert [(counts[s]["images"], counts[s]["boxes"]) for s in ("train", "val")] == [(2, 2), (1, 1)]
    assert (spec.train.img_dir, spec.val.img_dir) == (root / images.format("train"), root / images.format("valid"))


@pytest.mark.parametrize("place", ["ImageSets", ""])
def test_lists_in_another_place_with_both_files_in_a_line(tmp_path, place):
    root = voc_set(tmp_path / "set", ("a", "b"))
    shutil.rmtree(root / "ImageSets")
    (root / "JPEGImages").rename(root / "images")
    (root / place).mkdir(exist_ok=True)
    for split, name in (("train", "a"), ("val", "b")):
        (root / place / f"{split}.txt").write_text(f"images/{name}.jpg Annotations/{name}.xml\n")
    counts = resolve(root, tmp_path / "cache").report.counts
    assert (counts["train"]["images"], counts["val"]["images"]) == (1, 1)
