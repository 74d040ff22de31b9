"""YOLO labels: what is read as which box, which forms are recognised, and every fault by file and line."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from fcos_train.data import resolve
from mmcv_overrides.errors import UserError
from tests.support.tool_sets import SIZE, picture
from tests.support.yolo_set import LINE, yolo_set


def boxes(split):
    data = json.loads(split.ann_file.read_text())
    names = {image["id"]: image["file_name"] for image in data["images"]}
    classes = {category["id"]: category["name"] for category in data["categories"]}
    return [(names[a["image_id"]], classes[a["category_id"]], a["bbox"]) for a in data["annotations"]]


def names(split):
    return [image["file_name"] for image in json.loads(split.ann_file.read_text())["images"]]


@pytest.fixture
def read(tmp_path):
    return lambda root=tmp_path / "set", **more: resolve(root, tmp_path / "cache", **more)


def test_boxes_in_px(tmp_path, read):
    yolo_set(tmp_path / "set", {"train/a": f"{LINE}\n1 0.5 0.5 1 1\n", "train/b": "", "val/c": "1 0.75 0.5 0.25 0.125"})
    spec = read()
    assert spec.layout == "YOLO" and spec.classes == ("cat", "dog") and SIZE == (64, 48)
    assert boxes(spec.train) == [("a.jpg", "cat", [0, 0, 32, 24]), ("a.jpg", "dog", [0, 0, 64, 48])]
    assert boxes(spec.val) == [("c.jpg", "dog", [40, 21, 16, 6])]
    assert names(spec.train) == ["a.jpg", "b.jpg"]  # an image without objects is background
    assert spec.report.counts["train"]["without_objects"] == 1
    assert not spec.report.splits["train"].faults() and not spec.report.warnings[1:]


def test_numbers_with_enough_digits_come_back_exact(tmp_path, read):
    box = [10.13, 7.07, 33.31, 21.9]
    x, y, w, h = box
    line = f"0 {(x + w / 2) / 64} {(y + h / 2) / 48} {w / 64} {h / 48}"
    yolo_set(tmp_path / "set", {"train/a": line})
    assert boxes(read().train)[0] == ("a.jpg", "cat", box)


@pytest.mark.parametrize(
    ("line", "kind", "kept"),
    [
        ("2 0.5 0.5 0.5 0.5", "label_class", None),
        ("-1 0.5 0.5 0.5 0.5", "label_class", None),
        ("0.5 0.5 0.5 0.5 0.5", "label_class", None),
        ("0 0.5 0.5 0.5", "label_columns", None),
        ("0", "label_columns", None),
        ("0 .1 .1 .2 .1 .2 .2 .1", "label_columns", None),
        ("0 0.5 0.5 nan 0.5", "label_numbers", None),
        ("0 0.5 0.5 inf 0.5", "label_numbers", None),
        ("cat 0.5 0.5 0.5 0.5", "label_numbers", None),
        ("0 0,5 0,5 0,5 0,5", "label_numbers", None),
        ("0 1.2 0.5 0.5 0.5", "label_range", None),
        ("0 0.5 -0.2 0.5 0.5", "label_range", None),
        ("0 0.5 0.5 0 0.5", "label_range", None),
        (LINE, "label_twice", None),
        ("1 0.5 0.5 0.5 0.5 0.9", "label_extra", [16, 12, 32, 24]),
        ("1 0.25 0.5 0.75 0.5 0.5 1", "from_polygon", [16, 24, 32, 24]),
        ("1 0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5", "from_polygon", [16, 12, 16, 12]),  # four corners
        ("1 1 0.5 0.5 0.5", "clipped", [48, 12, 16, 24]),
    ],
)
def test_faults_are_counted_by_kind_with_file_and_line(tmp_path, read, line, kind, kept):
    yolo_set(tmp_path / "set", {"train/a": f"{LINE}\n\n{line}\n"})
    spec = read()
    split = spec.report.splits["train"]
    assert split.counts[kind] == 1
    assert [box for name, _, box in boxes(spec.train) if name == "a.jpg"][1:] == ([] if kept is None else [kept])
    if kind != "clipped":
        assert split.examples[kind][0].startswith("labels/train/a.txt:3")
        assert f"(labels/train/a.txt:3{'' if kind == 'from_polygon' else ': ' + line}" in " ".join(split.faults())
    total = split.counts["boxes_in_file"]
    assert total == 3  # of the two images, with the faulty line


def test_missing_and_stray_label_files(tmp_path, read):
    yolo_set(tmp_path / "set", {"train/b": None})
    (tmp_path / "set" / "labels" / "train" / "B1.txt").write_text(LINE)
    (tmp_path / "set" / "labels" / "train" / "classes.txt").write_text("cat\ndog\n")
    split = read().report.splits["train"]
    assert (split.counts["no_label_file"], split.examples["no_label_file"]) == (1, ["b.jpg"])
    assert (split.counts["label_strays"], split.examples["label_strays"]) == (1, ["labels/train/B1.txt"])


def test_px_instead_of_fractions_are_refused(tmp_path, read):
    yolo_set(tmp_path / "set", {"train/a": "0 12 10 8 9", "train/b": "0 30 20 8 9"})
    with pytest.raises(UserError, match=r"train: 2 of 2 lines .* look like px; .*labels/train/a.txt:1: 0 12 10 8 9"):
        read()


def test_turned_image_and_encodings(tmp_path, read):
    from PIL import Image

    root = yolo_set(tmp_path / "set")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(root / "images/train/a.jpg", exif=exif)  # 48 x 64 as it is loaded
    (root / "labels/train/b.txt").write_bytes(b"\xef\xbb\xbf" + LINE.encode())
    (root / "labels/val/c.txt").write_bytes(LINE.encode("utf-16"))
    spec = read()
    assert boxes(spec.train) == [("a.jpg", "cat", [0, 0, 24, 32]), ("b.jpg", "cat", [0, 0, 32, 24])]
    assert spec.report.counts["val"]["encoding"] == 1 and boxes(spec.val)[0][2] == [0, 0, 32, 24]
    assert read(turned=False).report.splits["train"].counts["boxes"] == 2


def test_unreadable_files_are_left_out_and_named(tmp_path, read):
    root = yolo_set(tmp_path / "set")
    picture(root / "images/train/d.jpg")
    (root / "labels/train/d.txt").write_text(LINE)
    (root / "images/train/b.jpg").write_bytes(b"no image")
    spec = read()
    assert spec.report.counts["train"]["unreadable_images"] == 1 and names(spec.train) == ["a.jpg", "d.jpg"]
    os.remove(root / "labels/train/d.txt")
    (root / "labels/train/d.txt").mkdir()
    with pytest.raises(UserError, match="label.*not a regular file: '.*d.txt' is a folder|d.txt"):
        read()


@pytest.mark.parametrize(
    "described",
    [
        "path: ../datasets/mine\ntrain: images/train\nval: images/val\nnames: {0: cat, 1: dog}\n",
        "train: ../images/train\nval: ../images/val\nnc: 2\nnames: ['cat', 'dog']\nroboflow: {version: 1}\n",
        "path: /content/set\ntrain: [images/train]\nval: [images/val]\nnames: {'0': cat, '1': dog}\n",
        "train: /mnt/me/set/images/train\nval: C:\\set\\images\\val\nnames: [cat, dog]\n",
        "train: train.txt\nval: lists/val.txt\nnames: [cat, dog]\n",
        "train: ./images/train/\nvalid: images/val\nnames: [cat, dog]\n",
    ],
)
def test_forms_of_data_yaml(tmp_path, read, described):
    root = yolo_set(tmp_path / "set", described=described)
    (root / "lists").mkdir()
    (root / "train.txt").write_text("./images/train/b.jpg\n/mnt/me/set/images/train/a.jpg\n")
    (root / "lists" / "val.txt").write_text("images/val/c.jpg\n")
    spec = read()
    assert spec.classes == ("cat", "dog")
    listed = "train.txt" in described
    assert names(spec.train) == (["images/train/b.jpg", "images/train/a.jpg"] if listed else ["a.jpg", "b.jpg"])
    assert [box[2] for box in boxes(spec.train)] == [[0, 0, 32, 24]] * 2
    assert boxes(read(root / "data.yaml").val)[0][1] == "cat"  # the file itself may be given


@pytest.mark.parametrize(
    ("described", "fault"),
    [
        ("train: images/train\nval: images/val\nnames: [cat]\nnc: 2\n", "nc is 2, but names has 1 classes"),
        ("train: images/train\nval: images/val\nnames: cat\n", "names is .*write a list of names"),
        ("train: images/train\nval: images/val\nnames: [cat, no]\n", "the name of class 1 is .*quotes"),
        (
            "train: images/train\nval: images/vla\nnames: [cat, dog]\n",
            r"no folder and no list \(.txt\) 'images/vla' for val",
        ),
        ("train: images/train\nnames: [cat, dog]\n", "names no images for validation"),
        ("path: 3\ntrain: images/train\nval: images/val\nnames: [cat, dog]\n", "path is .*write a folder"),
        ("train: 3\nval: images/val\nnames: [cat, dog]\n", "train is 3; write a folder"),
        ("train: [\n", "data.yaml: line 2: cannot be read as YAML"),
        ("train: !!python/object/apply:os.system [ls]\n", "only values are read"),
    ],
)
def test_contradictions_in_data_yaml(tmp_path, read, described, fault):
    yolo_set(tmp_path / "set", described=described)
    with pytest.raises(UserError, match=fault):
        read()


def test_a_class_outside_names_is_no_class(tmp_path, read):
    yolo_set(tmp_path / "set", {"train/a": "7 0.5 0.5 0.5 0.5"}, "train: images/train\nval: images/val\nnc: 2\n")
    spec = read()
    assert spec.classes == ("0", "1") and spec.report.counts["train"]["label_class"] == 1
    assert read(classes=["0"]).classes == ("0",)


def test_keypoints_follow_the_box(tmp_path, read):
    described = "train: images/train\nval: images/val\nkpt_shape: [2, 3]\nnames: [cat, dog]\n"
    line = f"{LINE} 0.1 0.1 2 0.9 0.9 2"
    yolo_set(tmp_path / "set", dict.fromkeys(("train/a", "train/b", "val/c"), line), described)
    assert [box[2] for box in boxes(read().train)] == [[0, 0, 32, 24]] * 2


def cvat(root):
    """CVAT's YOLO 1.1."""
    for split, stems in (("train", "ab"), ("valid", "c")):
        for stem in stems:
            picture(root / f"obj_{split}_data" / f"{stem}.jpg")
            (root / f"obj_{split}_data" / f"{stem}.txt").write_text(LINE)
        (root / f"{split}.txt").write_text("".join(f"data/obj_{split}_data/{stem}.jpg\n" for stem in stems))
    (root / "obj.names").write_text("cat\ndog\n")
    (root / "obj.data").write_text("classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n")


def darknet(root):
    """Roboflow's darknet form."""
    for split, stems in (("train", "ab"), ("valid", "c")):
        for stem in stems:
            picture(root / split / f"{stem}.jpg")
            (root / split / f"{stem}.txt").write_text(LINE)
        (root / split / "_darknet.labels").write_text("cat\ndog\n")


def roboflow(root):
    """Roboflow's YOLOv8 form."""
    for split, stems in (("train", "ab"), ("valid", "c"), ("test", "d")):
        for stem in stems:
            picture(root / split / "images" / f"{stem}.jpg")
            (root / split / "labels").mkdir(exist_ok=True)
            (root / split / "labels" / f"{stem}.txt").write_text(LINE)
    (root / "README.roboflow.txt").write_text("x")
    (root / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['cat', 'dog']\n"
    )


def folders(root):
    yolo_set(root, described=None)
    (root / "classes.txt").write_text("cat\ndog\n")


@pytest.mark.parametrize("make", [cvat, darknet, roboflow, folders])
def test_forms_of_the_tools(tmp_path, read, make):
    make(tmp_path / "set")
    spec = read()
    assert spec.layout == "YOLO" and spec.classes == ("cat", "dog")
    assert [Path(name).name for name in names(spec.train)] == ["a.jpg", "b.jpg"]
    assert [box[1:] for box in boxes(spec.train)] == [("cat", [0, 0, 32, 24])] * 2 and len(boxes(spec.val)) == 1
    tested = read(test=True)
    assert (tested.test is not None) == (make is roboflow)
    if make is roboflow:
        assert names(tested.test) == ["d.jpg"] and tested.report.counts["test"]["boxes"] == 1
        assert any("the test split is not read for training" in note for note in spec.report.notes)


def test_labels_without_split_or_names_are_refused_with_the_way_out(tmp_path, read):
    root = tmp_path / "set"
    picture(root / "images" / "a.jpg")
    (root / "labels").mkdir()
    (root / "labels" / "a.txt").write_text(LINE)
    (root / "classes.txt").write_text("cat\n")
    with pytest.raises(UserError, match=r"YOLO labels, they lack a split.*fcos-train convert PATH NEW"):
        read()
    yolo_set(tmp_path / "other", described=None)
    with pytest.raises(UserError, match="no file names their classes: write data.yaml"):
        read(tmp_path / "other")


def test_nothing_outside_the_data_folder_is_read(tmp_path, read):
    elsewhere = yolo_set(tmp_path / "elsewhere")
    root = yolo_set(
        tmp_path / "set", described=f"train: {elsewhere}/images/train\nval: images/val\nnames: [cat, dog]\n"
    )
    with pytest.raises(UserError, match=f"outside the data folder .*--allow-outside {elsewhere}"):
        read()
    spec = read(allow_outside=[str(elsewhere)])
    assert [box[2] for box in boxes(spec.train)] == [[0, 0, 32, 24]] * 2
    yolo_set(root)
    os.remove(root / "labels/train/a.txt")
    os.symlink(elsewhere / "labels/train/a.txt", root / "labels/train/a.txt")
    with pytest.raises(UserError, match=r"images/train: 1 path leads outside the data folder"):
        read()
    os.remove(root / "labels/train/a.txt")
    os.symlink("b.txt", root / "labels/train/a.txt")  # a link within
    assert len(boxes(read().train)) == 2
    os.remove(root / "images/train/a.jpg")
    os.symlink(elsewhere / "images/train/a.jpg", root / "images/train/a.jpg")
    with pytest.raises(UserError, match=r"1 path leads outside the data folder .*'a.jpg'"):
        read()
    shutil.rmtree(root / "labels" / "train")
    os.symlink(elsewhere / "labels" / "train", root / "labels" / "train")
    with pytest.raises(UserError, match="outside the data folder"):
        read()


def test_images_of_one_stem(tmp_path, read):
    root = yolo_set(tmp_path / "set")
    cv2.imwrite(str(root / "images/train/a.png"), np.zeros((48, 64), np.uint8))  # a mask
    assert names(read().train) == ["a.jpg", "b.jpg"]
    shutil.copy(root / "images/train/a.jpg", root / "images/train/a.jpeg")
    assert read().report.counts["train"]["several_files"] == 1


def test_folders_of_windows(tmp_path, read):
    root = yolo_set(tmp_path / "set")
    (root / "images").rename(root / "Images")
    (root / "labels").rename(root / "Labels")
    (root / "data.yaml").write_text("train: Images\\train\nval: Images\\val\nnames: [cat, dog]\n")
    assert [box[2] for box in boxes(read().train)] == [[0, 0, 32, 24]] * 2
