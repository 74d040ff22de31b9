"""Annotation files made to do harm: wrong types, huge numbers, control characters, XML attacks."""

import json
import math
import os
import shutil

import pytest

from fcos_train.cli.main import main
from fcos_train.data import resolve
from fcos_train.data.loading import LoadImage
from mmcv_overrides.errors import UserError
from tests.support.voc_folder import voc_folder

pytestmark = pytest.mark.hostile

FORGED = "x\n2026-01-01 12:00:00,000 - mmdet - INFO - Epoch(val) [1][8]\tbbox_mAP: 0.9990\x1b[31m"
SHOWN = r"x\n2026-01-01 12:00:00,000 - mmdet - INFO - Epoch(val) [1][8]\tbbox_mAP: 0.9990\x1b[31m"


@pytest.fixture
def data(shapes, tmp_path):
    return shutil.copytree(shapes, tmp_path / "data")


def edit(data, change, split="train"):
    file = data / "annotations" / f"instances_{split}2017.json"
    coco = json.loads(file.read_text())
    change(coco)
    file.write_text(json.dumps(coco))
    return file


def put(key, **values):
    """A change of the first entry of a list."""
    return lambda coco: coco[key][0].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("images", file_name=7), "the file_name of images[0] is 7; write a file name"),
        (put("images", file_name=None), "the file_name of images[0] is null"),
        (put("images", file_name=["a\n"]), r'the file_name of images[0] is ["a\n"]'),
        (put("images", id=[1]), "the id of images[0] is [1]; write a whole number"),
        (put("images", id={"a": 1}), 'the id of images[0] is {"a": 1}'),
        (put("images", id=math.nan), "the id of images[0] is NaN"),
        (put("images", id=None), "the id of images[0] is null"),
        (put("categories", id=[1]), "the id of categories[0] is [1]"),
        (put("categories", name=None), "the name of categories[0] (id 1) is null, but 33 annotations are of it"),
        (put("categories", name=" "), 'the name of categories[0] (id 1) is " ", but 33 annotations are of it'),
        (put("categories", name=True), "the name of categories[0] is true; write text"),
        (put("categories", name=["a"]), 'the name of categories[0] is ["a"]; write text'),
        (
            put("categories", name=FORGED),
            f"the class name '{SHOWN}' has control characters (shown escaped); rename the class",
        ),
        (put("categories", name="cat\u202e"), r"the class name 'cat\u202e' has control characters"),
        (put("categories", name="c" * 100_000), "a class name has 100000 characters, more than 200"),
        (lambda coco: coco["annotations"].insert(0, [1]), "annotations holds entries that are not objects"),
        (lambda coco: coco.update(images="abc"), "it has no list named images"),
    ],
)
def test_entries_that_cannot_be_used_are_one_clear_error(data, tmp_path, change, message):
    file = edit(data, change)
    with pytest.raises(UserError) as caught:
        resolve(data, tmp_path / "cache")
    assert str(file) in str(caught.value) and message in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"image_id": [1]}, "unknown_image"),
        ({"image_id": {"a": 1}}, "unknown_image"),
        ({"image_id": None}, "unknown_image"),
        ({"image_id": FORGED}, "unknown_image"),
        ({"category_id": [1]}, "unknown_category"),
        ({"category_id": math.nan}, "unknown_category"),
        ({"category_id": FORGED}, "unknown_category"),
        ({"id": [7]}, "duplicate_annotation_ids"),
        ({"id": math.inf}, "duplicate_annotation_ids"),
        ({"bbox": [10, 10, 10**400, 5]}, "degenerate"),
        ({"bbox": [10, 10, 1e308, 5]}, "degenerate"),
        ({"bbox": [10, 10, math.nan, 5]}, "degenerate"),
        ({"bbox": [10, 10, -math.inf, 5]}, "degenerate"),
        ({"bbox": ["10", "10", "5", "nan"]}, "degenerate"),
        ({"bbox": "10 10 5"}, "degenerate"),
        ({"bbox": FORGED}, "degenerate"),
        ({"bbox": list(range(1_000_000))}, "degenerate"),
        ({"bbox": None}, "degenerate"),
        ({"area": math.nan}, "filled"),
        ({"area": 10**400}, "filled"),
        ({"area": "large"}, "filled"),
        ({"iscrowd": None}, "filled"),
        ({"iscrowd": "yes"}, "filled"),
        ({"iscrowd": [1]}, "filled"),
    ],
)
def test_annotations_that_cannot_be_used_are_counted(data, tmp_path, values, kind):
    from fcos_train.evaluation.coco_scores import load_annotations

    before = resolve(data, tmp_path / "cache").report.counts["train"]["boxes"]
    edit(data, put("annotations", **values))
    spec = resolve(data, tmp_path / "cache")
    counts = spec.report.counts["train"]
    kept = kind in ("filled", "duplicate_annotation_ids")
    assert counts[kind] == 1 and counts["boxes"] == before - (not kept)
    lines = spec.report.lines()
    assert all(line.isprintable() and len(line) < 1000 for line in lines)
    assert len(load_annotations(spec.train.ann_file)["annotations"]) == counts["boxes"]  # the evaluator reads the copy


@pytest.mark.parametrize("side", [0, -5, math.nan, math.inf, 1e308, 10**400, "160", None, [160]])
def test_sizes_that_are_none_are_read_from_the_files(data, tmp_path, side):
    edit(data, put("images", width=side))
    spec = resolve(data, tmp_path / "cache")
    assert spec.report.counts["train"]["sizes_read"] == 1
    image = json.loads(spec.train.ann_file.read_text())["images"][0]
    assert (image["width"], image["height"]) == (160, 128)


def test_file_names_are_shown_escaped(data, tmp_path, capsys):
    name = f"{FORGED[:60]}\x1b[2J.jpg".replace("/", "")
    shutil.copy(data / "train2017" / "shapes_000001.jpg", data / "train2017" / name)
    file = edit(data, put("images", file_name=name))
    edit(
        data,
        lambda coco: (
            coco["annotations"][0].update(bbox=[0, 0, -1, 5]) or coco["images"][1].update(file_name=f"gone{name}")
        ),
    )
    assert main(["check-data", str(data)]) == 0
    said = capsys.readouterr()
    shown = name.encode("unicode_escape").decode()
    assert f"boxes without area (w or h <= 0, or no number): dropped ({shown} [0, 0, -1, 5])" in said.out
    assert f"images have no file: left out (gone{shown})" in said.out
    assert "\x1b" not in said.out and all(line.startswith(("data: ", " ")) for line in said.out.splitlines())
    (data / "train2017" / name).write_bytes(b"no image")
    assert main(["check-data", str(data), "--decode"]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "\x1b" not in said.err + said.out
    assert f"1 images cannot be decoded, e.g. {shown}: it cannot be decoded (8 bytes; " in said.err
    with pytest.raises(UserError) as caught:
        LoadImage()({"img_path": str(data / "train2017" / name)})
    assert str(caught.value).startswith(f"cannot read image {data / 'train2017'}/{shown}: it cannot be decoded")
    os.rename(data / "train2017" / name, data / "x.jpg")
    (data / "train2017" / name).symlink_to("/etc/passwd")
    assert main(["check-data", str(data)]) == 2
    assert f"{file}: 1 path leads outside the data folder {data}: '{shown}' -> " in capsys.readouterr().err


def test_classes_of_the_command_line(data, tmp_path):
    with pytest.raises(UserError, match=r"classes: the class name 'a\\nb' has control characters"):
        resolve(data, tmp_path / "cache", ["circle", "a\nb"])


# ---- VOC ----

OBJECT = (
    "<object><name>{name}</name><bndbox><xmin>5</xmin><ymin>6</ymin><xmax>50</xmax><ymax>60</ymax></bndbox></object>"
)
LAUGHS = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
DEEP = 100_000


def xml(body="", prologue="", size="<width>160</width><height>128</height>", name="cat"):
    return f"{prologue}<annotation><size>{size}</size>{OBJECT.format(name=name)}{body}</annotation>"


@pytest.fixture
def voc(shapes, tmp_path):
    return voc_folder(tmp_path / "voc", shapes / "train2017" / "shapes_000001.jpg", lambda _: xml())


SECRET = "a secret of this machine"


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        (xml("<a>&a11;</a>", f'<!DOCTYPE x [<!ENTITY a0 "ha">{LAUGHS}]>'), True),  # billion laughs
        (xml("<a>" + "&b;" * 50_000 + "</a>", f'<!DOCTYPE x [<!ENTITY b "{"b" * 50_000}">]>'), True),  # quadratic
        (xml(name="&s;", prologue='<!DOCTYPE x [<!ENTITY s SYSTEM "file://{secret}">]>'), True),  # XXE, a file
        (xml("<a>&s;</a>", '<!DOCTYPE x [<!ENTITY s SYSTEM "http://127.0.0.1:9/x">]>'), True),  # XXE, a host
        (xml("<a>&s;</a>", '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd">'), True),  # an entity of an external DTD
        (xml(prologue='<!DOCTYPE x [<!ENTITY % p SYSTEM "file://{secret}"> %p;]>'), False),  # not read
        (xml("<a>" * DEEP + "</a>" * DEEP), False),
        (xml("<a>" * DEEP), True),
        ("\x00\x01\x02", True),
        ("", True),
        (xml(prologue='<?xml version="1.0" encoding="utf-99"?>'), False),
        (xml(prologue='<?xml version="1.0" encoding="utf-16"?>'), False),  # is UTF-8
        (xml(prologue='<?xml version="1.0" encoding="unicode_escape"?>', name="cat"), False),  # no such encoding of XML
        (xml(prologue='<?xml version="1.0" encoding="gbk"?>'), False),
        ("<opt><cat/></opt>", True),  # not VOC
        (xml(size="<width>1e999</width><height>nan</height>"), False),  # read from the image
        (xml("<object><name>cat</name><bndbox><xmin>1e999</xmin><ymin>nan</ymin><xmax>1</xmax><ymax>2</ymax></bndbox>"
             "</object>"), False),
    ],
)  # fmt: skip
def test_xml_attacks_do_nothing(voc, tmp_path, text, left_out):
    (tmp_path / "secret").write_text(SECRET)
    path = voc / "Annotations" / "2.xml"
    path.write_text(text.replace("{secret}", str(tmp_path / "secret")))
    spec = resolve(voc, tmp_path / "cache")
    counts = spec.report.counts["train"]
    assert (counts["unreadable_xml"], counts["images"], counts["boxes"]) == (int(left_out), 3 - left_out, 3 - left_out)
    assert spec.classes == ("cat",)
    shown = "\n".join(spec.report.lines()) + json.dumps(spec.report.to_dict()) + spec.train.ann_file.read_text()
    assert SECRET not in shown


def test_an_xml_file_has_a_limit(voc, tmp_path):
    path = voc / "Annotations" / "2.xml"
    with open(path, "r+b") as file:
        file.truncate(1 << 40)
    spec = resolve(voc, tmp_path / "cache")
    (fault,) = (line for line in spec.report.lines() if "cannot be read" in line)
    assert "2.xml: it has 1099511627776 bytes, more than the limit of 16777216" in fault


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a\n2026 - mmdet - INFO - bbox_mAP: 0.9, ", r"a\n2026 - mmdet - INFO - bbox_mAP: 0.9,"),
        ("a&#x9b;31m", r"a\x9b31m"),
    ],
)
def test_class_names_of_xml(voc, tmp_path, name, shown):
    (voc / "Annotations" / "2.xml").write_text(xml(name=name))
    with pytest.raises(UserError) as caught:
        resolve(voc, tmp_path / "cache")
    assert str(caught.value) == (
        f"{voc / 'Annotations'}: the class name '{shown}' has control characters (shown escaped); rename the class"
    )


def test_a_list_that_is_no_text(voc, tmp_path):
    (voc / "ImageSets/Main/train.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot read the list of images .*train.txt: 'utf-16-le' codec can't decode"):
        resolve(voc, tmp_path / "cache")


@pytest.mark.parametrize("supercategory", ["group", None])
def test_any_number_of_categories(data, tmp_path, supercategory):
    def many(coco):
        extra = [{"id": 100 + i, "name": f"c{i}", "supercategory": supercategory} for i in range(20_000)]
        coco["categories"] = [*coco["categories"], *extra]

    for split in ("train", "val"):
        edit(data, many, split)
    spec = resolve(data, tmp_path / "cache")
    assert len(spec.classes) == 20_003 and spec.report.counts["train"]["boxes"] > 0
    assert len(spec.report.lines()) <= 25


def test_messages_about_long_names_are_short(data, tmp_path):
    edit(data, put("images", file_name="../" * 100_000 + "x.jpg"))
    with pytest.raises(UserError) as caught:
        resolve(data, tmp_path / "cache")
    assert len(str(caught.value)) < 2000 and f": '{'../' * 100}...' -> " in str(caught.value)
