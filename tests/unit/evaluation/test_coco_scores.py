"""The counting: against pycocotools on random data, and by hand on a case small enough to think through."""

import contextlib
import io
import json

import numpy as np
import pytest

from fcos_train.evaluation.coco_scores import (
    LARGE,
    MEDIUM,
    SMALL,
    category_ids,
    evaluate_boxes,
    load_annotations,
)
from mmcv_overrides.errors import UserError


def random_case(seed: int, images: int = 12, cats=(7, 3, 11)) -> tuple[dict, list[dict]]:
    """Ground truth with crowds and all sizes; detections that are jittered truths, false boxes and misses."""
    rng = np.random.default_rng(seed)
    annotations, detections = [], []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, 7)):
            size = rng.choice([12, 60, 150])
            box = [*rng.uniform(0, 300, 2), *(size * rng.uniform(0.6, 1.4, 2))]
            cat = int(rng.choice(cats))
            crowd = int(rng.random() < 0.15)
            ann = {"id": len(annotations) + 1, "image_id": image, "category_id": cat, "bbox": box, "iscrowd": crowd}
            annotations.append({**ann, "area": box[2] * box[3]})
            for _ in range(rng.integers(0, 3)):
                near = (np.array(box) + rng.normal(0, size / 12, 4)).tolist()
                detections.append({"image_id": image, "category_id": cat, "bbox": near, "score": float(rng.random())})
        for _ in range(rng.integers(0, 4)):
            wild = [*rng.uniform(0, 300, 2), *rng.uniform(5, 120, 2)]
            detections.append(
                {"image_id": image, "category_id": int(rng.choice(cats)), "bbox": wild, "score": float(rng.random())}
            )
    data = {
        "images": [{"id": i, "width": 450, "height": 450} for i in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": c, "name": f"c{c}"} for c in cats],
    }
    return data, detections


def official(data: dict, detections: list[dict]) -> np.ndarray:
    """The twelve numbers of pycocotools, by its own summary."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {**data, "info": {}}
        truth.createIndex()
        counter = COCOeval(truth, truth.loadRes([dict(d) for d in detections]), "bbox")
        counter.evaluate()
        counter.accumulate()
        counter.summarize()
    return counter.stats


def twelve(scores) -> list[float]:
    sizes = (SMALL, MEDIUM, LARGE)
    return [
        *(scores.ap(), scores.ap(iou=0.5), scores.ap(iou=0.75)),
        *(scores.ap(area=s) for s in sizes),
        *(scores.ar(i) for i in range(3)),
        *(scores.ar(area=s) for s in sizes),
    ]


@pytest.mark.parametrize("library", ["faster_coco_eval", "pycocotools"])
@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools(library, seed, tmp_path):
    data, detections = random_case(seed)
    (tmp_path / "gt.json").write_text(json.dumps(data))
    scores = evaluate_boxes(load_annotations(tmp_path / "gt.json"), detections, [3, 11, 7], library=library)
    np.testing.assert_allclose(twelve(scores), official(data, detections), atol=1e-6, rtol=0)


@pytest.mark.parametrize("library", ["faster_coco_eval", "pycocotools"])
@pytest.mark.parametrize(
    ("image_id", "category_id", "written"),
    [
        ("frame {}".format, "class {}".format, None),
        ((2**60).__add__, (2**53).__add__, None),
        (str, str, int),  # the annotations name them as numbers
        (int, int, str),
        ("{:012d}".format, "{}.0".format, float),
        ((-1).__mul__, (0.5).__add__, None),
    ],
)
def test_ids_of_any_kind_give_the_same_numbers(library, image_id, category_id, written, tmp_path):
    data, detections = random_case(3)
    expected = official(data, detections)
    changes = {"image_id": image_id, "category_id": category_id}
    truth = {
        "images": [{**image, "id": image_id(image["id"])} for image in data["images"]],
        "categories": [{**category, "id": category_id(category["id"])} for category in data["categories"]],
        "annotations": [{**a, **{k: (written or f)(a[k]) for k, f in changes.items()}} for a in data["annotations"]],
    }
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    found = [{**d, **{k: f(d[k]) for k, f in changes.items()}} for d in detections]
    scores = evaluate_boxes(
        load_annotations(tmp_path / "gt.json"), found, [category_id(c) for c in (3, 11, 7)], library=library
    )
    np.testing.assert_allclose(twelve(scores), expected, atol=1e-6, rtol=0)


def test_categories_come_in_the_order_asked():
    data, detections = random_case(1)
    one_way = evaluate_boxes(data, detections, [3, 7, 11])
    other = evaluate_boxes(data, detections, [11, 3, 7])
    assert [one_way.ap(category=i) for i in range(3)] == [other.ap(category=i) for i in (1, 2, 0)]
    alone = [evaluate_boxes(data, detections, [cat]).ap() for cat in (3, 7, 11)]
    np.testing.assert_allclose([one_way.ap(category=i) for i in range(3)], alone, atol=1e-12)


def test_ap_by_hand():
    # Class 1: two boxes; found exactly, then a false box, then the other one with IoU 0.6.
    # At IoU .5 and .55, .6: precision 1 up to recall 1/2, then 2/3 -> (51 * 1 + 50 * 2/3) / 101.
    # Above: one of two found -> 51/101. Class 2: one small box, not found -> 0. Class 3: no box -> undefined.
    truths = [[10, 10, 100, 100], [200, 200, 100, 100], [10, 10, 20, 20]]
    data = {
        "images": [{"id": 1}],
        "annotations": [
            {"id": i + 1, "image_id": 1, "category_id": cat, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, (box, cat) in enumerate(zip(truths, [1, 1, 2], strict=True))
        ],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}, {"id": 3, "name": "c"}],
    }
    boxes = [([10, 10, 100, 100], 0.9), ([400, 10, 50, 50], 0.8), ([200, 200, 100, 60], 0.7)]
    detections = [{"image_id": 1, "category_id": 1, "bbox": box, "score": s} for box, s in boxes]
    scores = evaluate_boxes(data, detections, [1, 2, 3])
    both, half = (51 + 50 * 2 / 3) / 101, 51 / 101
    assert scores.ap(iou=0.5, category=0) == pytest.approx(both)
    assert scores.ap(iou=0.75, category=0) == pytest.approx(half)
    # IoU of the last is 0.6 exactly; 0.6 passes (the comparison is against the threshold minus 1e-10).
    assert scores.ap(category=0) == pytest.approx((3 * both + 7 * half) / 10)
    assert scores.ap(category=1) == 0
    assert scores.ap(category=2) == -1
    assert scores.ap(iou=0.5) == pytest.approx(both / 2)
    assert scores.ap(area=MEDIUM) == -1
    assert scores.ap(area=SMALL) == 0


def test_annotation_id_zero_counts(tmp_path):
    box = {"image_id": 5, "category_id": 1, "bbox": [0, 0, 50, 50]}
    data = {"images": [{"id": 5}], "annotations": [{"id": 0, **box}], "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "gt.json").write_text(json.dumps(data))
    truth = load_annotations(tmp_path / "gt.json")
    assert truth["annotations"][0]["area"] == 2500
    assert evaluate_boxes(truth, [{**box, "score": 0.5}], [1]).ap() == pytest.approx(1.0)


def test_class_mismatch_shows_both_lists():
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert category_ids(categories, ["dog", "cat"], "gt.json") == [2, 1]
    with pytest.raises(UserError, match=r"(?s)person, cat.*cat, dog.*not in the file: person"):
        category_ids(categories, ["person", "cat"], "gt.json")
    with pytest.raises(UserError, match="more than once: cat"):
        category_ids([*categories, {"id": 9, "name": "cat"}], ["cat"], "gt.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot read"), ("{", "not a JSON file"), ('{"images": []}', "lacks annotations, categories")],
)
def test_bad_annotation_files(tmp_path, text, message):
    if text is not None:
        (tmp_path / "gt.json").write_text(text)
    with pytest.raises(UserError, match=message):
        load_annotations(tmp_path / "gt.json")
