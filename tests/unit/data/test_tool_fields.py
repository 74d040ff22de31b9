"""COCO fields as tools write them: ids of any kind, values as text, boxes that only polygons give, encodings."""

import codecs
import json

import pytest

from fcos_train.data import resolve
from fcos_train.data.coco_fields import extent
from mmcv_overrides.errors import UserError
from tests.support.tool_sets import BOX, coco, coco_set


def changed(ids=None, references=None, categories=None, category_references=None, **more):
    """Annotations of a.jpg and b.jpg with other ids, and what annotations name."""
    data = coco(["a.jpg", "b.jpg"], **more)
    for index, (image, annotation) in enumerate(zip(data["images"], data["annotations"], strict=True)):
        image["id"] = (ids or (1, 2))[index]
        annotation["image_id"] = (references or ids or (1, 2))[index]
        annotation["category_id"] = (category_references or categories or (1,))[0]
    data["categories"][0]["id"] = (categories or (1,))[0]
    return data


def read(tmp_path, data):
    """(spec, its cleaned training annotations)."""
    spec = resolve(coco_set(tmp_path / "set", data), tmp_path / "cache")
    return spec, json.loads(spec.train.ann_file.read_text())


@pytest.mark.parametrize(
    ("values", "images", "categories", "faults"),
    [
        ({"ids": ("x", "y")}, [1, 2], [1], {"image_ids": 2}),
        ({"ids": ("0007", "0003")}, [7, 3], [1], {"image_ids": 2}),  # the numbers stay
        ({"ids": ("1", "01")}, [1, 2], [1], {"image_ids": 2}),
        ({"ids": ("1", 1)}, [1, 2], [1], {"image_ids": 1}),  # two images
        ({"ids": (2**60, 2**60 + 1)}, [1, 2], [1], {"image_ids": 2}),
        ({"ids": (2**53, 5)}, [1, 2], [1], {"image_ids": 1}),
        ({"ids": (-1, 5)}, [1, 2], [1], {"image_ids": 1}),
        ({"ids": (1.0, 2.5)}, [1, 2], [1], {"image_ids": 2}),
        ({"ids": (4.0, 3.0)}, [4, 3], [1], {"image_ids": 2}),
        ({"ids": ("1", "2"), "references": (1, 2)}, [1, 2], [1], {"image_ids": 2, "linked_ids": 2}),
        ({"ids": (1, 2), "references": ("1", "002")}, [1, 2], [1], {"linked_ids": 2}),
        ({"ids": (1, 2), "references": (1.0, "2.0")}, [1, 2], [1], {"linked_ids": 1}),
        ({"categories": ("cat",)}, [1, 2], [1], {"category_ids": 1}),
        ({"categories": ("3",), "category_references": (3,)}, [1, 2], [3], {"category_ids": 1, "linked_ids": 2}),
        ({"categories": (3,), "category_references": ("3",)}, [1, 2], [3], {"linked_ids": 2}),
        ({"category_references": ("cat",)}, [1, 2], [1], {"linked_ids": 2}),
        ({"references": ("a.jpg", "b.jpg")}, [1, 2], [1], {"linked_ids": 2}),
        ({"categories": (2**62,)}, [1, 2], [1], {"category_ids": 1}),
    ],
)
def test_ids_become_whole_numbers_and_keep_their_boxes(tmp_path, values, images, categories, faults):
    spec, data = read(tmp_path, changed(**values))
    assert [image["id"] for image in data["images"]] == images
    assert [category["id"] for category in data["categories"]] == categories
    assert [(a["image_id"], a["category_id"], a["bbox"]) for a in data["annotations"]] == [
        (image, categories[0], BOX) for image in images
    ]
    counts = spec.report.counts["train"]
    assert {kind: counts[kind] for kind in ("image_ids", "category_ids", "linked_ids") if counts[kind]} == faults


def test_an_unknown_id_is_not_taken_for_a_new_number(tmp_path):
    """After renumbering there is an image 1; an annotation that named 1 before meant none of them."""
    data = changed(ids=("x", "y"))
    data["annotations"].append({**data["annotations"][0], "image_id": 1, "category_id": 1})
    spec, clean = read(tmp_path, data)
    assert spec.report.counts["train"]["unknown_image"] == 1 and len(clean["annotations"]) == 2
    assert "image id 1" in spec.report.splits["train"].examples["unknown_image"][0]
    lost = changed(references=("a", "b"))
    with pytest.raises(UserError, match='2 annotations name an unknown image id: dropped .image id "a"; image id "b"'):
        read(tmp_path, lost)


def test_image_ids_that_an_exponent_made_equal_are_counted(tmp_path):
    data = coco(["a.jpg", "b.jpg"])
    for image in data["images"]:
        image["id"] = 1.152921504606847e18
    with pytest.raises(UserError, match="2 share their id with another file"):
        read(tmp_path, data)


@pytest.mark.parametrize(
    ("values", "expected", "kind"),
    [
        ({"bbox": ["4", "6.0", " 20 ", "1.6e1"]}, (BOX, 320, 0), "as_text"),
        ({"bbox": "4 6 20 16"}, (BOX, 320, 0), "as_text"),
        ({"bbox": "[4, 6, 20, 16]"}, (BOX, 320, 0), "as_text"),
        ({"area": "320.5"}, (BOX, 320.5, 0), "as_text"),
        ({"iscrowd": "0"}, (BOX, 320, 0), "as_text"),
        ({"iscrowd": "false"}, (BOX, 320, 0), "as_text"),
        ({"ignore": "0"}, (BOX, 320, 0), "as_text"),
        ({"iscrowd": None}, (BOX, 320, 0), "filled"),
        ({"iscrowd": False}, (BOX, 320, 0), None),
        ({"area": None}, (BOX, 320, 0), "filled"),
        ({"bbox": None, "segmentation": [[4, 6, 24, 6, 24, 22, 4, 22]]}, (BOX, 320, 0), "from_polygon"),
        ({"bbox": [], "segmentation": [4, 6, 24, 6, 24, 22, 4, 22]}, (BOX, 320, 0), "from_polygon"),
        ({"bbox": [0, 0, 0, 0], "segmentation": [[[4, 6], [24, 6], [24, 22]]]}, (BOX, 320, 0), "from_polygon"),
    ],
)
def test_values_as_text_null_or_polygon(tmp_path, values, expected, kind):
    spec, data = read(tmp_path, changed(**values))
    counts = spec.report.counts["train"]
    assert [(a["bbox"], a["area"], int(a["iscrowd"])) for a in data["annotations"]] == [expected] * 2
    assert (counts["boxes"], counts["crowd"]) == (2, 0)
    assert kind is None or counts[kind] == 2
    assert all(not a.get("ignore") for a in data["annotations"])


def test_a_crowd_written_as_text(tmp_path):
    data = changed()
    data["annotations"][0]["iscrowd"] = "1"
    counts = read(tmp_path, data)[0].report.counts["train"]
    assert (counts["boxes"], counts["crowd"], counts["as_text"]) == (1, 1, 1)


def test_the_extent_of_masks_is_that_of_their_pixels():
    np, coder = pytest.importorskip("numpy"), pytest.importorskip("pycocotools.mask")
    pixels = np.zeros((5, 7), np.uint8, order="F")
    pixels[1:4, 2:6] = 1
    compressed = coder.encode(pixels)
    runs = [11, 3, 2, 3, 2, 3, 2, 3, 6]  # column by column
    assert sum(runs) == 35
    assert extent({"size": [5, 7], "counts": runs}) == [2, 1, 4, 3]
    assert extent({"size": [5, 7], "counts": compressed["counts"].decode()}) == [2, 1, 4, 3]
    assert extent({"size": [5, 7], "counts": [0, 6, 29]}) == [0, 0, 2, 5]  # over the end of a column


@pytest.mark.parametrize(
    "nothing",
    [None, [], [[]], [[1, 2, 3]], [[1, 2], [3]], "a", {}, {"size": [0, 7], "counts": "1"},
     {"size": [5, 7], "counts": [35]}, {"size": [5, 7], "counts": [-1, 2]}, [[[[1, 2, 3, 4, 5, 6]]]]],
)  # fmt: skip
def test_what_has_no_extent(nothing):
    assert extent(nothing) is None


def test_class_names(tmp_path):
    def with_names(*names, used=1, files=("a.jpg", "b.jpg")):
        data = coco(list(files), category_id=used)
        data["categories"] = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
        return data

    root = coco_set(tmp_path / "set", with_names(1, 2.5, "x", None, " "), with_names(1, 2.5, "x", files=("c.jpg",)))
    spec = resolve(root, tmp_path / "cache")
    assert spec.classes == ("1", "2.5", "x")
    counts = spec.report.counts["train"]
    assert (counts["number_names"], counts["unnamed_categories"]) == (2, 2)
    assert [c["name"] for c in json.loads(spec.train.ann_file.read_text())["categories"]] == ["1", "2.5", "x"]
    with pytest.raises(UserError, match=r"train.json: the name of categories\[1\] \(id 2\) is null, but 2 ann"):
        resolve(coco_set(tmp_path / "set", with_names("x", None, used=2)), tmp_path / "cache")


@pytest.mark.parametrize(
    ("encoding", "mark", "shown"),
    [("utf-8", codecs.BOM_UTF8, "utf-8-sig"), ("utf-16", b"", "utf-16"), ("utf-16-le", b"", "utf-16-le"),
     ("gbk", b"", "gbk"), ("shift_jis", b"", "shift_jis")],
)  # fmt: skip
def test_json_in_other_encodings(tmp_path, encoding, mark, shown):
    names = {"gbk": "汽车", "shift_jis": "ひまわり"}
    root = coco_set(tmp_path / "set")
    for split in ("train", "val"):
        path = root / "annotations" / f"instances_{split}.json"
        data = json.loads(path.read_text())
        data["categories"][0]["name"] = names.get(encoding, "车")
        path.write_bytes(mark + json.dumps(data, ensure_ascii=False).encode(encoding))
    spec = resolve(root, tmp_path / "cache")
    assert spec.classes == (names.get(encoding, "车"),)
    assert spec.report.splits["train"].examples["encoding"] == [f"instances_train.json: {shown}"]
    assert json.loads(spec.train.ann_file.read_text(encoding="utf-8"))["categories"][0]["name"] == spec.classes[0]
    path.write_bytes('{"name": "aéb"}'.encode("latin-1"))
    with pytest.raises(UserError, match="instances_val.json is not a JSON file: its encoding is neither"):
        resolve(root, tmp_path / "cache")
