"""The generated set: exact boxes, reproducible bytes, scaled with the image, never half made."""

import json

import cv2
import numpy as np
import pytest

from fcos_train.data import make_shapes, resolve
from fcos_train.data.shapes import _place, draw_image
from mmcv_overrides.errors import UserError


def content(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_same_seed_same_bytes_and_other_seed_other_bytes(tmp_path):
    sets = [make_shapes(tmp_path / n, train=4, val=2, size=(96, 64), seed=s) for n, s in (("a", 3), ("b", 3), ("c", 4))]
    one, same, other = map(content, sets)
    assert len(one) == 8 and one == same
    assert all(one[name] != other[name] for name in one)


def test_an_image_does_not_depend_on_how_many_there_are(tmp_path):
    few, many = (make_shapes(tmp_path / str(n), train=n, val=1, size=(96, 64)) for n in (2, 5))
    name = "train2017/shapes_000002.jpg"
    assert content(few)[name] == content(many)[name]
    assert content(few)[name] != content(few)["val2017/shapes_000001.jpg"]


@pytest.mark.parametrize("size", [(320, 240), (160, 128), (64, 64)])
def test_boxes_are_those_of_the_visible_pixels(size):
    shown = 0
    for seed in range(20):
        image, drawn, owner = draw_image(np.random.default_rng(seed), size)
        assert image.shape == (size[1], size[0], 3) and 1 <= len(drawn) <= 6
        for index, shape in enumerate(drawn, start=1):
            rows, columns = np.nonzero(owner == index)
            x, y, w, h = shape.box
            assert (columns.min(), columns.max(), rows.min(), rows.max()) == (x, x + w - 1, y, y + h - 1)
            assert x >= 0 and y >= 0 and x + w <= size[0] and y + h <= size[1]
            assert max(w, h) <= 0.5 * min(size) + 2
            shown += 1
    assert shown > 40


def test_no_shape_is_covered_by_more_than_three_tenths():
    owner = np.zeros((64, 64), np.int32)
    owner[16:48, 16:48] = 1
    masks = [_place(np.random.default_rng(seed), owner, [32 * 32], "square") for seed in range(50)]
    covered = [mask[16:48, 16:48].sum() / 32**2 for mask in masks if mask is not None]
    assert len(covered) > 40 and 0.1 < max(covered) <= 0.3


def test_drawn_colours_stand_out():
    image, drawn, owner = draw_image(np.random.default_rng(1), (160, 128))
    ground = image[owner == 0].mean(axis=0)
    assert all(np.linalg.norm(image[owner == i].mean(axis=0) - ground) > 40 for i in range(1, len(drawn) + 1))


def test_the_fixture_is_sound(shapes, tmp_path):
    spec = resolve(shapes, tmp_path)
    assert spec.classes == ("circle", "square", "triangle")
    assert spec.train.ann_file == shapes / "annotations" / "instances_train2017.json"
    train, val = spec.report.counts["train"], spec.report.counts["val"]
    assert (train["images"], train["without_objects"], val["images"]) == (24, 0, 8)
    assert min(spec.report.splits["train"].boxes_per_class.values()) >= 10
    assert not spec.report.warnings
    assert cv2.imread(str(shapes / "train2017" / "shapes_000024.jpg")).shape == (128, 160, 3)


def test_an_interrupted_set_has_no_annotations(tmp_path, monkeypatch):
    root = make_shapes(tmp_path / "s", train=3, val=1, size=(64, 64))
    monkeypatch.setattr(cv2, "imencode", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make_shapes(root, train=3, val=1, size=(64, 64))
    assert not list((root / "annotations").iterdir())
    with pytest.raises(UserError):
        resolve(root, tmp_path / "cache")


def test_a_smaller_set_leaves_nothing_of_the_larger(tmp_path):
    make_shapes(tmp_path, train=5, val=2, size=(64, 64))
    make_shapes(tmp_path, train=2, val=1, size=(64, 64))
    assert len(content(tmp_path)) == 2 + 1 + 2


def test_what_cannot_be_made(tmp_path):
    for arguments in (dict(train=0), dict(size=(16, 64)), dict(classes=("blob",)), dict(classes=())):
        with pytest.raises(UserError):
            make_shapes(tmp_path / "x", **arguments)
    foreign = tmp_path / "foreign" / "annotations" / "instances_train2017.json"
    foreign.parent.mkdir(parents=True)
    foreign.write_text(json.dumps({"info": {"description": "COCO 2017 Dataset"}}))
    with pytest.raises(UserError, match="belongs to another data set"):
        make_shapes(tmp_path / "foreign", train=1, val=1)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        make_shapes(tmp_path / "file", train=1, val=1)


def test_other_classes(tmp_path):
    root = make_shapes(tmp_path, train=8, val=1, size=(96, 96), classes=("cross", "circle"))
    data = json.loads((root / "annotations" / "instances_train2017.json").read_text())
    assert [(c["id"], c["name"]) for c in data["categories"]] == [(1, "cross"), (2, "circle")]
    assert {a["category_id"] for a in data["annotations"]} == {1, 2}
