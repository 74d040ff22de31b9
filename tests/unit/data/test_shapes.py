"""The generated set: exact boxes, reproducible bytes, scaled with the image, never half made."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmdet.models.dense_heads import FCOSHead
from mmengine.structures import InstanceData

from fcos_train.config.load import load_config
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


def test_the_standard_set_is_the_same_as_ever(tmp_path):
    """Published figures belong to it: the boxes of two images, as the first version drew them."""
    root = make_shapes(tmp_path, train=2, val=1, size=(160, 128), seed=5)
    data = json.loads((root / "annotations" / "instances_train2017.json").read_text())
    assert [(a["image_id"], a["category_id"], *a["bbox"]) for a in data["annotations"]] == [
        (1, 1, 108, 2, 45, 40), (1, 2, 96, 65, 34, 34), (1, 1, 77, 41, 32, 33), (1, 1, 103, 27, 41, 41),
        (1, 3, 36, 18, 13, 13), (2, 2, 15, 27, 58, 58), (2, 1, 87, 2, 15, 15), (2, 3, 68, 15, 33, 34),
        (2, 1, 9, 70, 33, 33),
    ]  # fmt: skip


def level_shares(root, split, size, head):
    """Share of the objects at each level: by the centre's distance to the farthest side, and by mmdet's assignment."""
    data = json.loads((root / "annotations" / f"instances_{split}2017.json").read_text())
    upper = [high for _, high in head.regress_ranges]
    farthest = [max(a["bbox"][2:]) / 2 for a in data["annotations"]]
    by_centre = np.bincount(np.searchsorted(upper, farthest), minlength=5)
    points = head.prior_generator.grid_priors([(size[1] // s, size[0] // s) for s in head.strides], device="cpu")
    assigned = np.zeros(5, int)
    for image in data["images"]:
        boxes = torch.tensor([a["bbox"] for a in data["annotations"] if a["image_id"] == image["id"]])
        boxes[:, 2:] += boxes[:, :2]
        instances = InstanceData(bboxes=boxes, labels=torch.arange(len(boxes)))  # as if each were a class of its own
        labels, _ = head.get_targets(points, [instances])
        assigned += [len(set(level.tolist()) - {head.num_classes}) for level in labels]
    return by_centre / len(farthest), assigned / len(farthest)


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("split", ["train", "val"])
def test_all_levels_carry_objects(tmp_path, split, scale):
    """With the ranges of the config at its size, and with FCOS's own ranges at four times that."""
    size = (256 * scale, 192 * scale)
    root = make_shapes(tmp_path, train=12 // scale, val=12 // scale, size=size, sizes="all-levels")
    head = FCOSHead(99, 8, feat_channels=8, stacked_convs=0, norm_cfg=None, center_sampling=True)
    if scale == 1:
        ranges = load_config("fcos/fcos_r18_fpn_shapes_bn-head_levels").model.bbox_head
        assert [4 * high for _, high in ranges.regress_ranges[:4]] == [high for _, high in head.regress_ranges[:4]]
        head.regress_ranges = ranges.regress_ranges
    by_centre, assigned = level_shares(root, split, size, head)
    assert by_centre[:4].min() > 0.12 and by_centre[4] == 0
    assert assigned[:4].min() > 0.12


def test_all_levels_lie_in_every_image_and_the_large_below_the_small():
    for seed in range(6):
        _, drawn, owner = draw_image(np.random.default_rng(seed), (256, 192), sizes="all-levels")
        sides = [max(shape.box[2:]) for shape in drawn]
        assert 3 <= len(drawn) <= 6 and max(sides) > 128 and min(sides) < 32
        assert sides[0] == max(sides) and all(owner[owner > 0] <= len(drawn))


def test_what_cannot_be_made(tmp_path):
    for arguments in (
        dict(train=0),
        dict(size=(16, 64)),
        dict(classes=("blob",)),
        dict(classes=()),
        dict(sizes="large"),
    ):
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
