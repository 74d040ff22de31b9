"""Layouts are recognised or refused with what was looked for; two forms of one real set come out the same."""

import json
import shutil

import cv2
import numpy as np
import pytest

from fcos_train.data import make_shapes, resolve
from fcos_train.data.inside import Boundary
from fcos_train.data.voc import load
from fcos_train.data.voc_layout import VocSplit
from mmcv_overrides.errors import UserError


def boxes(split):
    data = json.loads(split.ann_file.read_text())
    names = {image["id"]: image["file_name"] for image in data["images"]}
    return [(a["id"], names[a["image_id"]], a["category_id"], a["bbox"], a["area"]) for a in data["annotations"]]


@pytest.fixture
def coco(shapes, tmp_path):
    """A copy of the generated set that a test may rearrange."""
    return shutil.copytree(shapes, tmp_path / "set")


@pytest.mark.parametrize("folder", ["bccd", "bccd_voc"])
def test_real_set_numbers(shared_data, tmp_path, folder):
    spec = resolve(shared_data / folder, tmp_path)
    train, val = spec.report.counts["train"], spec.report.counts["val"]
    assert spec.classes == ("Platelets", "RBC", "WBC")
    assert (train["images"], train["boxes_in_file"], train["boxes"], train["degenerate"]) == (
        292,
        3943,
        3941,
        2,
    )
    assert (val["images"], val["boxes_in_file"], val["boxes"], val["degenerate"]) == (72, 945, 945, 0)
    assert spec.report.splits["train"].boxes_per_class == {"Platelets": 292, "RBC": 3348, "WBC": 301}
    assert spec.report.splits["val"].boxes_per_class == {"Platelets": 69, "RBC": 805, "WBC": 71}
    assert spec.report.splits["train"].examples["degenerate"] == [
        "BloodImage_00338.jpg [504.0, 337.0, 0.0, 0.0]",
        "BloodImage_00343.jpg [181.0, 329.0, 0.0, 0.0]",
    ]
    assert len(spec.report.lines()) <= 25


def test_real_set_is_the_same_in_both_layouts(shared_data, tmp_path):
    one, two = (resolve(shared_data / name, tmp_path / name) for name in ("bccd", "bccd_voc"))
    assert one.classes == two.classes and (one.layout, two.layout) == ("COCO", "VOC")
    assert one.val.ann_file == shared_data / "bccd" / "annotations" / "instances_val2017.json"  # used in place
    for a, b, total in ((one.train, two.train, 3941), (one.val, two.val, 945)):
        assert len(boxes(a)) == total
        assert boxes(a) == boxes(b)
        images = [json.loads(s.ann_file.read_text())["images"] for s in (a, b)]
        assert images[0] == images[1]


@pytest.mark.parametrize(
    ("train", "val", "images"),
    [
        ("annotations/instances_train.json", "annotations/instances_val.json", ("train", "val")),
        ("annotations/train2014.json", "annotations/val2014.json", ("images/train2014", "images/val2014")),
        ("annotations/instances_train2017.json", "annotations/instances_val2017.json", ("images", "images")),
        ("train/_annotations.coco.json", "valid/_annotations.coco.json", ("train", "valid")),
        ("train.json", "val.json", ("train/images", "val/images")),
        ("instances_train.json", "instances_test.json", ("train", "test")),
    ],
)
def test_coco_variants(coco, tmp_path, train, val, images):
    root = tmp_path / "variant"
    for old, ann_file, folder in (("train2017", train, images[0]), ("val2017", val, images[1])):
        (root / ann_file).parent.mkdir(parents=True, exist_ok=True)
        (root / folder).mkdir(parents=True, exist_ok=True)
        prefix = f"{old[:3]}_" if images[0] == images[1] else ""
        data = json.loads((coco / "annotations" / f"instances_{old}.json").read_text())
        for image in data["images"]:
            name = image["file_name"]
            image["file_name"] = prefix + name
            shutil.copy(coco / old / name, root / folder / image["file_name"])
        (root / ann_file).write_text(json.dumps(data))
    spec = resolve(root, tmp_path / "cache")
    assert (spec.train.ann_file, spec.val.ann_file) == (root / train, root / val)
    assert (spec.train.img_dir, spec.val.img_dir) == (root / images[0], root / images[1])
    assert (spec.report.counts["train"]["images"], spec.report.counts["val"]["images"]) == (24, 8)
    assert not spec.report.warnings


def test_2017_is_preferred_and_special_lists_are_not_taken(coco, tmp_path):
    folder = coco / "annotations"
    for name in (
        "instances_train2014",
        "instances_val2014",
        "instances_minival2014",
        "person_keypoints_val2017",
    ):
        shutil.copy(folder / "instances_val2017.json", folder / f"{name}.json")
    spec = resolve(coco, tmp_path / "cache")
    assert spec.train.ann_file.name == "instances_train2017.json"
    assert spec.val.ann_file.name == "instances_val2017.json"


def test_roboflow_group_category_is_left_out(coco, tmp_path):
    for path in (coco / "annotations").iterdir():
        data = json.loads(path.read_text())
        group = {"id": 0, "name": "shape", "supercategory": "none"}
        data["categories"] = [group, *({**c, "supercategory": "shape"} for c in data["categories"])]
        path.write_text(json.dumps(data))
    spec = resolve(coco, tmp_path / "cache")
    assert spec.classes == ("circle", "square", "triangle")
    assert spec.report.notes == ["category {shape} only groups the others and has no box: ignored"]


def test_a_set_one_folder_down_is_found_and_two_are_not_guessed(coco, tmp_path):
    spec = resolve(tmp_path, tmp_path / "cache")
    assert spec.train.img_dir == coco / "train2017"
    assert spec.report.notes == [f"data set found in {coco}"]
    make_shapes(tmp_path / "other", train=1, val=1, size=(64, 64))
    with pytest.raises(UserError, match=f"contains several data sets.*{tmp_path / 'other'}"):
        resolve(tmp_path, tmp_path / "cache")


def test_paths_that_hold_no_data(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        resolve(tmp_path / "absent", tmp_path / "cache")
    with pytest.raises(UserError, match="empty folder"):
        resolve(tmp_path, tmp_path / "cache")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "labels").mkdir()
    with pytest.raises(UserError, match=r"(?s)Looked for.*COCO:.*VOC:.*and found labels/, notes.txt.*YOLO"):
        resolve(tmp_path, tmp_path / "cache")
    with pytest.raises(UserError, match="is a file"):
        resolve(tmp_path / "notes.txt", tmp_path / "cache")


def test_incomplete_coco_sets(coco, tmp_path):
    shutil.rmtree(coco / "val2017")
    with pytest.raises(UserError, match="no image of .*instances_val2017.json was found, e.g. shapes_000001.jpg"):
        # the names of the two splits are the same here, so the training images must not be taken for them
        resolve(coco, tmp_path / "cache")
    (coco / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(UserError, match="none for validation"):
        resolve(coco, tmp_path / "cache")


XML = """<annotation><filename>wrong.png</filename>{source}
<size><width>100</width><height>80</height></size>{objects}
</annotation>"""
OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult>
<bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin>
<xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"""
PASCAL = "<source><database>The VOC2007 Database</database></source>"


@pytest.fixture
def voc(tmp_path):
    """voc({name: [(class, box, difficult)]}, lists={list: names}, source='') -> root"""

    def make(images, lists, source="", root=tmp_path / "voc"):
        for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for name, objects in images.items():
            cv2.imwrite(str(root / "JPEGImages" / f"{name}.jpg"), np.zeros((80, 100, 3), np.uint8))
            text = "".join(OBJECT.format(name=n, b=b, difficult=d) for n, b, d in objects)
            (root / "Annotations" / f"{name}.xml").write_text(XML.format(source=source, objects=text))
        for name, members in lists.items():
            (root / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(members) + "\n")
        return root

    return make


ONE = {"a": [("cat", (1, 1, 100, 80), 0)], "b": [("cat", (11, 21, 30, 40), 0), ("ant", (5.5, 6, 9, 9), 1)]}
LISTS = {"train": ["a"], "val": ["b"]}


@pytest.mark.parametrize(
    ("source", "first", "second", "note"),
    [
        (PASCAL, [0, 0, 100, 80], [10, 20, 20, 20], "PASCAL's pixels, counted from 1"),
        ("", [1, 1, 99, 79], [11, 21, 19, 19], "edges counted from 0"),
    ],
)
def test_voc_coordinates(voc, tmp_path, source, first, second, note):
    images = {**ONE, "b": ONE["b"][:1]}
    spec = resolve(voc(images, LISTS, source), tmp_path / "cache")
    assert [b[1:4] for b in boxes(spec.train)] == [("a.jpg", 1, first)]
    assert [b[1:4] for b in boxes(spec.val)] == [("b.jpg", 1, second)]
    assert note in spec.report.notes[0]


def test_a_zero_coordinate_rules_out_counting_from_one(voc):
    root = voc({"a": [("cat", (0, 1, 10, 10), 0)]}, {"train": ["a"]}, PASCAL)
    split = VocSplit(root / "ImageSets/Main/train.txt", root / "JPEGImages", root / "Annotations", ("a.xml",))
    sources, note = load([("train", split)], Boundary(root))
    assert sources[0].raw["annotations"][0]["bbox"] == [0, 1, 10, 9] and "from 0" in note


def test_voc_difficult_is_crowd_and_classes_are_sorted(voc, tmp_path):
    images = {"a": [("cat", (1, 1, 9, 9), 0), ("ant", (1, 1, 9, 9), 0)], "b": ONE["b"]}
    spec = resolve(voc(images, LISTS), tmp_path / "cache")
    val = spec.report.counts["val"]
    assert spec.classes == ("ant", "cat")
    assert (val["boxes"], val["crowd"], val["difficult"], val["boxes_in_file"]) == (1, 1, 1, 2)
    found = json.loads(spec.val.ann_file.read_text())
    assert [(a["category_id"], a["iscrowd"]) for a in found["annotations"]] == [(2, 0), (1, 1)]


def test_voc_trains_on_trainval_if_test_is_annotated(voc, tmp_path):
    images = {name: [("cat", (1, 1, 9, 9), 0)] for name in "abc"}
    lists = {"train": ["a"], "val": ["b"], "trainval": ["a", "b"], "test": ["c"]}
    counts = resolve(voc(images, lists), tmp_path / "cache").report.counts
    assert (counts["train"]["images"], counts["val"]["images"]) == (2, 1)
    unlabelled = voc(images, {**lists, "test": ["nowhere"]}, root=tmp_path / "VOCdevkit" / "VOC2012")
    spec = resolve(tmp_path / "VOCdevkit", tmp_path / "cache")
    counts = spec.report.counts
    assert (counts["train"]["images"], counts["val"]["images"]) == (1, 1)
    assert spec.train.img_dir == unlabelled / "JPEGImages"


def test_voc_missing_and_broken_annotation_files(voc, tmp_path):
    images = {name: [("cat", (1, 1, 9, 9), 0)] for name in "abcdef"}
    root = voc(images, {"train": list("abcde"), "val": ["f"]})
    (root / "Annotations" / "a.xml").unlink()
    (root / "Annotations" / "b.xml").write_text("<annotation>")
    counts = resolve(root, tmp_path / "cache").report.counts["train"]
    assert (counts["images_in_file"], counts["images"]) == (5, 3)
    assert (counts["missing_xml"], counts["unreadable_xml"]) == (1, 1)
    (root / "Annotations" / "c.xml").unlink()
    with pytest.raises(UserError, match="only 2 of the 5 images .*2 have no annotation file, e.g. a.xml"):
        resolve(root, tmp_path / "cache")


def test_voc_without_usable_lists(voc, tmp_path):
    with pytest.raises(UserError, match=r"has neither trainval.txt and test.txt.*found train.txt"):
        resolve(voc(ONE, {"train": ["a"]}), tmp_path / "cache")
