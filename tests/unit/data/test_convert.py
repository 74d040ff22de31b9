"""`convert`: nine ways between three layouts give the same boxes, to the last digit; what is lost is said."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest
import yaml

from fcos_train.cli.main import main
from fcos_train.data import resolve
from fcos_train.data.convert import convert
from mmcv_overrides.errors import UserError
from tests.support.tool_sets import SIZE, coco, picture, xml
from tests.support.yolo_set import LINE, yolo_set

LAYOUTS = ("coco", "voc", "yolo")
CLASSES = ("zebra", "ant", "unused", "bee: small")  # not in the order of the alphabet


def content(split):
    """Class names, images and objects of a split, in order, without ids."""
    data = json.loads(split.ann_file.read_text())
    classes = {category["id"]: category["name"] for category in data["categories"]}
    images = {image["id"]: Path(image["file_name"]).name for image in data["images"]}
    objects = [(images[a["image_id"]], classes[a["category_id"]], a["bbox"], a["iscrowd"]) for a in data["annotations"]]
    return list(classes.values()), list(images.values()), objects


def contents(root, cache):
    spec = resolve(root, cache, test=True)
    return {name: content(split) for name, split in (("train", spec.train), ("val", spec.val), ("test", spec.test))}


@pytest.fixture
def awkward(tmp_path):
    """A COCO set: decimals, background, an order of its own, folders, equal names in two splits, a test split."""
    root, draw = tmp_path / "awkward", random.Random(3)
    for split, names in (("train", ["z.jpg", "sub/b.jpg", "a.jpg"]), ("val", ["a.jpg", "c.png"]), ("test", ["t.jpg"])):
        data = coco(names)
        data["categories"] = [{"id": 3 * n + 2, "name": name} for n, name in enumerate(CLASSES)]
        data["annotations"] = []
        for image in data["images"][: len(names) - (split == "train")]:  # the last training image is background
            picture(root / split / image["file_name"])
            for category in (2, 5, 11, 2):
                x, y = round(draw.uniform(0, 30), 2), round(draw.uniform(0, 20), 3)
                w, h = round(draw.uniform(1, 30), 2), round(draw.uniform(1, 25), 1)
                number = len(data["annotations"]) + 1
                data["annotations"].append(
                    dict(
                        id=number, image_id=image["id"], category_id=category, bbox=[x, y, w, h], area=w * h, iscrowd=0
                    )
                )
        picture(root / split / names[-1])
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))
    return root


def test_round_trips(awkward, tmp_path):
    want = contents(awkward, tmp_path / "cache")
    assert want["train"][1] == ["z.jpg", "b.jpg", "a.jpg"] and len(want["train"][2]) == 8 and want["test"][2]
    assert want["train"][0] == list(CLASSES)
    for to in LAYOUTS:
        report, notes = convert(awkward, tmp_path / to, to)
        assert notes == [] and report.layout == "COCO"
        assert contents(tmp_path / to, tmp_path / "cache") == want
        for then in LAYOUTS:
            report, _ = convert(tmp_path / to, tmp_path / f"{to}_{then}", then, link=True)
            assert report.layout == to.upper()
            assert contents(tmp_path / f"{to}_{then}", tmp_path / "cache") == want
            shutil.rmtree(tmp_path / f"{to}_{then}")


def test_real_set_round_trips(shared_data, tmp_path):
    want = contents_of_two(shared_data / "bccd", tmp_path / "cache")
    for to in ("voc", "yolo"):
        convert(shared_data / "bccd", tmp_path / to, to, link=False)
        assert contents_of_two(tmp_path / to, tmp_path / "cache") == want


def contents_of_two(root, cache):
    spec = resolve(root, cache)
    return content(spec.train), content(spec.val)


def test_what_a_layout_does_not_hold_is_said(tmp_path):
    root = tmp_path / "set"
    for split, names in (("train", ["a.jpg", "b.jpg"]), ("val", ["c.jpg"])):
        data = coco(names)
        data["images"][0]["id"] = 70 if split == "train" else 1
        data["annotations"][0]["image_id"] = data["images"][0]["id"]
        if split == "train":
            crowd = dict(id=9, image_id=70, category_id=1, bbox=[1, 1, 9, 9], area=81, iscrowd=1)
            outline = dict(data["annotations"][0], id=10, area=200, segmentation=[[4, 6, 24, 6, 24, 22]])
            data["annotations"] += [crowd, outline]
        for name in names:
            picture(root / split / name)
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))
    _, notes = convert(root, tmp_path / "yolo", "yolo")
    assert notes == [
        "train: 1 crowd or difficult boxes are left out: YOLO has none",
        "train: 1 repeated boxes are written once",
        "train: of 1 annotations with a mask, keypoints or an own area only the box",
        "train: image ids are not kept",
    ]
    _, notes = convert(root, tmp_path / "voc", "voc")
    assert notes == [
        "train: of 1 annotations with a mask, keypoints or an own area only the box",
        "train: image ids are not kept",
    ]
    assert [o[3] for o in contents_of_two(tmp_path / "voc", tmp_path / "cache")[0][2]] == [0, 1, 0, 0]
    _, notes = convert(root, tmp_path / "coco", "coco")
    train, new = (
        json.loads((place / "annotations" / "instances_train.json").read_text()) for place in (root, tmp_path / "coco")
    )
    assert notes == [] and train == new  # everything


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path, monkeypatch):
    root = yolo_set(tmp_path / "set")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="full exists and is not an empty folder; nothing is overwritten"):
        convert(root, tmp_path / "full", "coco")
    with pytest.raises(UserError, match="inside the data set"):
        convert(root, root / "new", "coco")
    before = sorted(root.rglob("*"))

    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fcos_train.data.convert.shutil.copy2", fails)
    with pytest.raises(UserError, match="No space left"):
        convert(root, tmp_path / "new", "coco")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "set"] and sorted(root.rglob("*")) == before
    (tmp_path / "empty").mkdir()
    convert(root, tmp_path / "empty", "coco", link=True)
    assert os.path.samefile(tmp_path / "empty" / "train" / "a.jpg", root / "images" / "train" / "a.jpg")


def test_images_of_one_stem_have_no_name_in_yolo(tmp_path):
    root = tmp_path / "set"
    for split, names in (("train", ["a.jpg", "a.png"]), ("val", ["c.jpg"])):
        for name in names:
            picture(root / split / name)
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(coco(names)))
    with pytest.raises(UserError, match="train: 2 images differ in suffix or case only, e.g. a.jpg"):
        convert(root, tmp_path / "yolo", "yolo")
    convert(root, tmp_path / "coco", "coco")


def label_studio_coco(root):
    names = [f"{n}.jpg" for n in range(5)]
    data = coco([f"..\\..\\media\\upload\\1\\{name}" for name in names])
    for name in names:
        picture(root / "images" / name)
    (root / "result.json").write_text(json.dumps(data))


def cvat_coco(root):
    names = [f"{n}.jpg" for n in range(5)]
    for name in names:
        picture(root / "images" / name)
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_default.json").write_text(json.dumps(coco(names)))


def label_studio_yolo(root):
    for n in range(5):
        picture(root / "images" / f"{n}.jpg")
        (root / "labels").mkdir(exist_ok=True)
        (root / "labels" / f"{n}.txt").write_text(LINE)
    (root / "classes.txt").write_text("cat\n")
    (root / "notes.json").write_text(json.dumps({"categories": [{"id": 0, "name": "cat"}], "info": {}}))


def label_studio_voc(root):
    for n in range(5):
        picture(root / "images" / f"{n}.jpg")
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{n}.xml").write_text(xml(f"{n}.jpg"))


@pytest.mark.parametrize("make", [label_studio_coco, cvat_coco, label_studio_yolo, label_studio_voc])
def test_exports_without_a_split(tmp_path, make, capsys):
    make(tmp_path / "set")
    with pytest.raises(UserError, match=r"fcos-train convert PATH NEW --to coco --val-share 0.2"):
        resolve(tmp_path / "set", tmp_path / "cache")
    words = ["convert", tmp_path / "set", tmp_path / "new", "--to", "yolo", "--val-share", 0.4, "--seed", 1]
    assert main(list(map(str, words))) == 0
    out = capsys.readouterr().out
    assert "written to" in out and "note: 2 of 5 images chosen to validate on (seed 1)" in out
    (_, train, boxes), (_, val, _) = contents_of_two(tmp_path / "new", tmp_path / "cache")
    assert (len(train), len(val)) == (3, 2) and sorted(train + val) == [f"{n}.jpg" for n in range(5)]
    assert {tuple(box[2]) for box in boxes} == ({(0, 0, 32, 24)} if "yolo" in make.__name__ else {(4, 6, 20, 16)})
    assert yaml.safe_load((tmp_path / "new" / "data.yaml").read_text())["names"] == {0: "cat"} and SIZE == (64, 48)


def test_a_test_split_that_validates_stays_one(tmp_path):
    root = yolo_set(tmp_path / "set", described="train: images/train\ntest: images/val\nnames: [cat]\n")
    convert(root, tmp_path / "voc", "voc")
    assert sorted(os.listdir(tmp_path / "voc" / "ImageSets" / "Main")) == ["test.txt", "train.txt"]
    spec = resolve(tmp_path / "voc", tmp_path / "cache", test=True)
    assert spec.test == spec.val and "the test split is also the validation split" in spec.report.notes[-1]


def test_a_share_is_chosen_only_where_there_are_no_splits(tmp_path):
    root = yolo_set(tmp_path / "set")
    with pytest.raises(UserError, match="--val-share: .* tells training from validation already; leave it out"):
        convert(root, tmp_path / "new", "coco", val_share=0.5)
    assert main(["convert", str(root), str(tmp_path / "new"), "--to", "coco", "--seed", "3"]) == 2
    cvat_coco(tmp_path / "one")
    with pytest.raises(UserError, match="--val-share 1: of 5 images none is left to train on"):
        convert(tmp_path / "one", tmp_path / "new", "coco", val_share=1)
    names = ["a.jpg", "b.jpg"]
    for name in names:
        picture(tmp_path / "roboflow" / "train" / name)
    (tmp_path / "roboflow" / "train" / "_annotations.coco.json").write_text(json.dumps(coco(names)))
    with pytest.raises(UserError, match="none for validation.*--val-share 0.2"):
        resolve(tmp_path / "roboflow", tmp_path / "cache")
    convert(tmp_path / "roboflow", tmp_path / "new", "voc", val_share=0.5)
    assert [len(part[1]) for part in contents_of_two(tmp_path / "new", tmp_path / "cache")] == [1, 1]
