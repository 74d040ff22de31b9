"""The data check: every fault by a hand-made set, the messages, and the real set's numbers."""

import json
import math
import pickle

import cv2
import numpy as np
import pytest

from fcos_train.data import Split, check, check_coco_files, resolve
from fcos_train.data.images import decode_split
from mmcv_overrides.errors import UserError

CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


def ann(number, image_id=1, category_id=1, bbox=(10, 10, 20, 20), **more):
    box = list(bbox)
    area = box[2] * box[3] if len(box) == 4 else 0
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": box,
        "area": area,
        "iscrowd": 0,
        **more,
    }


def image(number, name=None, **more):
    return {"id": number, "file_name": name or f"{number}.jpg", "width": 100, "height": 80, **more}


@pytest.fixture
def write(tmp_path):
    """write(split, images, annotations, categories, absent=()) -> Split; with real image files."""

    def make(split, images, annotations, categories=CATEGORIES, absent=()):
        folder = tmp_path / f"{split}2017"
        folder.mkdir(exist_ok=True)
        for entry in images:
            if entry["file_name"] not in absent:
                cv2.imwrite(str(folder / entry["file_name"]), np.zeros((80, 100, 3), np.uint8))
        path = tmp_path / "annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(exist_ok=True)
        data = {"images": images, "annotations": annotations, "categories": categories}
        path.write_text(json.dumps(data))
        return Split(split, path, folder)

    return make


@pytest.fixture
def val(write):
    return write("val", [image(1, "v.jpg")], [ann(1), ann(2, category_id=2)])


def counts(write, val, images, annotations, **kwargs):
    return check(write("train", images, annotations, **kwargs), val).counts["train"]


def test_a_sound_set_is_counted_and_used_in_place(write, val, tmp_path):
    train = write("train", [image(1), image(2)], [ann(1), ann(2, category_id=2), ann(3, iscrowd=1)])
    spec = resolve(tmp_path, tmp_path / "cache")
    assert spec.classes == ("cat", "dog") and spec.layout == "COCO"
    assert (spec.train, spec.val) == (train, val)
    assert not (tmp_path / "cache").exists()
    c = spec.report.counts["train"]
    assert (c["images"], c["annotated"], c["without_objects"]) == (2, 1, 1)
    assert (c["boxes"], c["crowd"], c["boxes_in_file"]) == (2, 1, 3)
    assert spec.report.splits["train"].boxes_per_class == {"cat": 1, "dog": 1}
    assert not spec.report.warnings and not any("!" in line for line in spec.report.lines())
    assert pickle.loads(pickle.dumps(spec)) == spec


@pytest.mark.parametrize(
    ("kind", "box"),
    [
        ("degenerate", (5, 5, 0, 10)),
        ("degenerate", (5, 5, 10, -1)),
        ("degenerate", (5, 5, math.nan, 10)),
        ("degenerate", (5, 5, 10)),
        ("outside", (100, 5, 10, 10)),
        ("outside", (-20, 5, 20, 10)),
    ],
)
def test_bad_boxes_are_dropped_counted_and_named(write, val, kind, box):
    train = write("train", [image(1)], [ann(1), ann(2, bbox=box)])
    report = check(train, val).splits["train"]
    assert (report.counts[kind], report.counts["boxes"], report.counts["boxes_in_file"]) == (1, 1, 2)
    assert report.examples[kind][0].startswith("1.jpg [")
    assert f"train: 1 {'boxes without area' if kind == 'degenerate' else 'boxes wholly outside'}" in "\n".join(
        report.faults()
    )


def test_a_box_over_the_border_is_clipped_in_a_copy(write, val, tmp_path):
    train = write("train", [image(1)], [ann(1, bbox=(-5, 70, 20, 30)), ann(2, bbox=(90, 0, 10.05, 20))])
    before = train.ann_file.read_bytes()
    spec = resolve(tmp_path, tmp_path / "cache")
    boxes = json.loads(spec.train.ann_file.read_text())["annotations"]
    assert spec.train.ann_file.parent == tmp_path / "cache" and spec.val == val
    assert spec.report.counts["train"]["clipped"] == 1  # 0.05 px over is rounding
    assert [b["bbox"] for b in boxes] == [[0, 70, 15, 10], [90, 0, 10.05, 20]]
    assert boxes[0]["area"] == 150
    assert train.ann_file.read_bytes() == before
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["instances_train.json"]


def test_ids_that_repeat_or_are_zero(write, val, tmp_path):
    annotations = [ann(0), ann(7), ann(7, category_id=2), ann(8, image_id=99), ann(9, category_id=5)]
    write("train", [image(1), image(1), image(2)], annotations)
    spec = resolve(tmp_path, tmp_path / "cache")
    c = spec.report.counts["train"]
    assert (c["repeated_images"], c["images"], c["images_in_file"]) == (1, 2, 3)
    assert (c["duplicate_annotation_ids"], c["unknown_image"], c["unknown_category"]) == (2, 1, 1)
    assert [a["id"] for a in json.loads(spec.train.ann_file.read_text())["annotations"]] == [1, 2, 3]


def test_two_files_under_one_image_id_are_left_out(write, val):
    images = [image(1), image(1, "other.jpg"), image(2), image(3), image(4)]
    c = counts(write, val, images, [ann(1), ann(2, image_id=2)])
    assert (c["ambiguous_images"], c["lost_boxes"], c["images"], c["boxes"]) == (2, 1, 3, 1)


def test_one_file_under_two_image_ids_is_counted(write, val):
    c = counts(write, val, [image(1, "a.jpg"), image(2, "a.jpg")], [ann(1)])
    assert (c["duplicate_file_names"], c["images"]) == (1, 2)


def test_missing_area_crowd_flag_and_size_are_filled_in(write, val, tmp_path):
    bare = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}
    write("train", [{"id": 1, "file_name": "1.jpg"}], [bare])
    spec = resolve(tmp_path, tmp_path / "cache")
    data = json.loads(spec.train.ann_file.read_text())
    assert (data["annotations"][0]["area"], data["annotations"][0]["iscrowd"]) == (12, 0)
    assert (data["images"][0]["width"], data["images"][0]["height"]) == (100, 80)
    c = spec.report.counts["train"]
    assert (c["filled"], c["sizes_read"]) == (1, 1)


def test_missing_files_are_left_out_up_to_half(write, val):
    images = [image(i) for i in range(1, 5)]
    annotations = [ann(i, image_id=i) for i in range(1, 5)]
    c = counts(write, val, images, annotations, absent=("1.jpg", "2.jpg"))
    assert (c["missing_files"], c["images"], c["boxes"], c["lost_boxes"]) == (2, 2, 2, 2)


def test_mostly_missing_files_are_an_error(write, val):
    train = write("train", [image(i) for i in range(1, 4)], [ann(1)], absent=("2.jpg", "3.jpg"))
    with pytest.raises(UserError, match=r"only 1 of the 3 images .* 2 have no file in .*train2017, e.g. 2.jpg"):
        check(train, val)


def test_files_in_sub_folders_are_found(write, val, tmp_path):
    train = write("train", [image(1)], [ann(1)])
    (train.img_dir / "sub").mkdir()
    (train.img_dir / "1.jpg").rename(train.img_dir / "sub" / "1.jpg")
    data = json.loads(train.ann_file.read_text())
    data["images"][0]["file_name"] = "sub/1.jpg"
    train.ann_file.write_text(json.dumps(data))
    assert check(train, val).counts["train"]["missing_files"] == 0


def test_a_validation_class_that_training_lacks(write, val):
    train = write("train", [image(1)], [ann(1)], [{"id": 1, "name": "cat"}])
    with pytest.raises(UserError, match=r"training lacks: \{dog\}.*classes: \{cat\}.*classes: \{cat, dog\}"):
        check(train, val)


def test_class_order_follows_train_in_both_files(write, tmp_path):
    """mmdet numbers labels by the order of the file, so both must list the same categories in one order."""
    write(
        "train",
        [image(1)],
        [ann(1), ann(2, category_id=9), ann(3, category_id=4)],
        [{"id": 9, "name": "dog"}, {"id": 1, "name": "cat"}, {"id": 4, "name": "emu"}],
    )
    write("val", [image(1, "v.jpg")], [ann(1)], [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}])
    spec = resolve(tmp_path, tmp_path / "cache")
    read = [json.loads(s.ann_file.read_text()) for s in (spec.train, spec.val)]
    assert spec.classes == ("cat", "emu", "dog")
    assert [[c["name"] for c in data["categories"]] for data in read] == [["cat", "emu", "dog"]] * 2
    assert read[1]["annotations"][0]["category_id"] == 1 and read[1]["categories"][2] == {
        "id": 1,
        "name": "dog",
    }
    assert len({c["id"] for c in read[1]["categories"]}) == 3
    assert "different orders" in " ".join(spec.report.warnings) and "{emu}" in " ".join(spec.report.warnings)
    assert "6 gaps" in spec.report.notes[0]


def test_asked_classes_filter_and_order(write, val, tmp_path):
    write("train", [image(1)], [ann(1), ann(2, category_id=2)])
    spec = resolve(tmp_path, tmp_path / "cache", ["dog"])
    assert spec.classes == ("dog",)
    assert spec.report.counts["train"]["other_class"] == 1
    assert spec.report.counts["val"]["boxes"] == 1
    assert resolve(tmp_path, tmp_path / "cache", ["dog", "cat"]).classes == ("dog", "cat")


def test_asking_for_other_classes_shows_both_lists(write, val):
    train = write("train", [image(1)], [ann(1), ann(2)])
    with pytest.raises(
        UserError, match=r"has classes \{cat, dog\}; asked for \{person, car\}; 0 of 2 annotations match"
    ):
        check(train, val, ("person", "car"))
    with pytest.raises(UserError, match=r"has no class \{car\}; your file has classes \{cat, dog\}"):
        check(train, val, ("cat", "car"))


@pytest.mark.parametrize(
    ("classes", "message"), [("cat", "single text 'cat'"), ((), "empty"), (("cat", "cat"), "twice")]
)
def test_class_lists_that_cannot_be_meant(write, val, classes, message):
    train = write("train", [image(1)], [ann(1)])
    with pytest.raises(UserError, match=message):
        check(train, val, classes)


def test_no_usable_box_is_an_error_with_its_reasons(write, val):
    train = write("train", [image(1)], [ann(1, bbox=(5, 5, 0, 0))])
    with pytest.raises(UserError, match="0 of 1 annotations can be used; train: 1 boxes without area"):
        check(train, val)


def test_categories_of_one_name_are_merged_and_of_one_id_refused(write, val, tmp_path):
    write("train", [image(1)], [ann(1), ann(2, category_id=3)], [*CATEGORIES, {"id": 3, "name": "cat"}])
    spec = resolve(tmp_path, tmp_path / "cache")
    assert [a["category_id"] for a in json.loads(spec.train.ann_file.read_text())["annotations"]] == [1, 1]
    train = write("train", [image(1)], [ann(1)], [*CATEGORIES, {"id": 2, "name": "emu"}])
    with pytest.raises(UserError, match="id 2 is both 'dog' and 'emu'"):
        check(train, val)


def test_images_in_both_splits_are_warned_of(write, val):
    leak = Split("train", val.ann_file, val.img_dir)
    assert "1 images are in both splits (e.g. v.jpg)" in check(leak, val).warnings[-1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a JSON file"),
        ('{"images": []}', "no list named annotations, categories"),
        (
            '{"images": [{"id": 1}], "annotations": [], "categories": []}',
            r"images\[0\] has no file_name",
        ),
    ],
)
def test_files_that_are_not_coco(write, val, text, message):
    train = write("train", [image(1)], [ann(1)])
    train.ann_file.write_text(text)
    with pytest.raises(UserError, match=message):
        check(train, val)


def test_a_config_with_its_own_files(write, tmp_path):
    train = write("train", [image(1)], [ann(1), ann(2, bbox=(0, 0, 0, 0))])
    report = check_coco_files(train.ann_file, train.img_dir, ("cat", "dog"))
    assert (report.counts["boxes"], report.ann_file) == (1, train.ann_file)
    cleaned = check_coco_files(train.ann_file, train.img_dir, ("dog", "cat"), cache_dir=tmp_path / "cache")
    assert cleaned.ann_file == tmp_path / "cache" / "instances_train.json"
    with pytest.raises(UserError, match=r"lists its classes as \{cat, dog\}, the config as \{dog, cat\}"):
        check_coco_files(train.ann_file, train.img_dir, ("dog", "cat"))
    with pytest.raises(UserError, match="0 of 2 annotations match"):
        check_coco_files(train.ann_file, train.img_dir, ("person", "bicycle"))


def test_reports_stay_short(write, tmp_path):
    many = [{"id": i, "name": f"class{i}"} for i in range(1, 81)]
    annotations = [ann(i, category_id=i) for i in range(1, 40)] + [ann(50, bbox=(0, 0, 0, 0)), ann(50, 1, 99)]
    train = write("train", [image(1), image(2)], annotations, many)
    val = write("val", [image(1, "v.jpg")], [ann(1)], many)
    lines = check(train, val).lines()
    assert len(lines) == 25
    assert "    71 more classes  30 / 0" in lines
    assert lines[-1].startswith("  ... ")


def test_decode_finds_broken_and_missized_images(write):
    split = write("train", [image(1), image(2), image(3), image(4)], [ann(1)])
    (split.img_dir / "1.jpg").write_bytes(b"")
    (split.img_dir / "2.jpg").write_bytes(b"no image at all")
    cv2.imwrite(str(split.img_dir / "3.jpg"), np.zeros((100, 80, 3), np.uint8))
    report = decode_split(split)
    assert [p.rsplit("/", 1)[1] for p in report.unreadable] == ["1.jpg", "2.jpg"]
    assert report.missized == ["3.jpg: 80x100, annotated 100x80, sides swapped (EXIF orientation?)"]
    assert report.lines()[0] == "train: 4 images decoded, 2 unreadable, 1 of another size than annotated"


def test_mmdet_reads_a_cleaned_file_as_reported(write, val, tmp_path):
    from mmdet.datasets import CocoDataset

    write("train", [image(1), image(2)], [ann(0), ann(0, image_id=2, category_id=2), ann(3, bbox=(0, 0, 0, 0))])
    spec = resolve(tmp_path, tmp_path / "cache")
    data = CocoDataset(
        ann_file=str(spec.train.ann_file),
        data_prefix=dict(img=str(spec.train.img_dir)),
        metainfo=dict(classes=spec.classes),
        pipeline=[],
    )
    found = [(i["bbox"], i["bbox_label"]) for n in range(2) for i in data.get_data_info(n)["instances"]]
    assert found == [([10, 10, 30, 30], 0), ([10, 10, 30, 30], 1)]
