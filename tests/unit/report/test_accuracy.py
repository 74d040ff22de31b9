"""Confusion matrix, precision, recall and F1 on a case small enough to count by hand, and against plain Python.

The case: three images, classes cat, dog and owl (which has no box). The IoU of each pair is written beside it.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from fcos_train.report.accuracy import confusions, measure, worst_images
from fcos_train.report.evaluation import Unavailable, match, read_evaluation

CAT, DOG, OWL = 7, 3, 9  # ids of the file, in another order than the classes
TRUTH = [
    # image, class, box, crowd
    ("a", CAT, [0, 0, 10, 10], 0),
    ("a", CAT, [20, 0, 10, 10], 0),
    ("a", DOG, [40, 0, 10, 10], 0),
    ("b", DOG, [0, 0, 10, 10], 0),
    ("b", DOG, [20, 0, 10, 10], 0),
    ("b", CAT, [50, 50, 40, 40], 1),
    ("c", CAT, [0, 0, 10, 10], 0),
]
FOUND = [
    # image, class, box, score
    ("a", CAT, [0, 0, 10, 8], 0.9),  # IoU 0.8: right
    ("a", CAT, [0, 0, 10, 10], 0.6),  # IoU 1, but the cat is taken: invented
    ("a", DOG, [20, 0, 10, 10], 0.8),  # IoU 1 with a cat: invented; in the matrix a cat called dog
    ("a", DOG, [40, 0, 10, 10], 0.7),  # right
    ("b", DOG, [0, 0, 10, 4], 0.5),  # IoU 0.4: invented
    ("b", DOG, [20, 0, 10, 6], 0.4),  # IoU 0.6: right
    ("b", CAT, [55, 55, 10, 10], 0.95),  # inside the crowd: neither right nor wrong
    ("b", CAT, [70, 70, 10, 10], 0.85),  # inside the crowd too
    ("c", OWL, [0, 0, 10, 10], 0.3),  # IoU 1 with a cat; invented
    ("c", CAT, [0, 0, 10, 10], 0.3),  # right, of the same score as the owl
]


def write_case(folder: Path, found=FOUND, truth=TRUTH) -> Path:
    """The files of an evaluation. Returns their prefix."""
    images = [{"id": name, "file_name": f"{name}.jpg", "width": 100, "height": 100} for name in "abc"]
    annotations = [
        {"id": i, "image_id": image, "category_id": cat, "bbox": box, "iscrowd": crowd}  # an id of 0 as well
        for i, (image, cat, box, crowd) in enumerate(truth)
    ]
    names = [{"id": DOG, "name": "dog"}, {"id": CAT, "name": "cat"}, {"id": OWL, "name": "owl"}]
    ann_file = folder / "instances.json"
    ann_file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": names}))
    results = [{"image_id": i, "category_id": c, "bbox": box, "score": score} for i, c, box, score in found]
    (folder / "detections.bbox.json").write_text(json.dumps(results))
    per_class = {name: {"boxes": 0, "AP": 0.5, "AP_50": 0.5, "AP_75": None} for name in ("cat", "dog", "owl")}
    content = {"metrics": {"bbox_mAP": 0.5}, "per_class": per_class, "ann_file": str(ann_file), "images": 3}
    (folder / "detections.metrics.json").write_text(json.dumps({**content, "detections": len(found), "seconds": 0.1}))
    return folder / "detections"


@pytest.fixture
def case(tmp_path):
    return read_evaluation(write_case(tmp_path))


def test_precision_recall_and_f1(case):
    accuracy = measure(case)
    cat, dog, owl = accuracy.curves
    # cats: 3 boxes; right at 0.9, invented at 0.6, right at 0.3
    assert (cat.boxes, cat.threshold.tolist()) == (3, [0.9, 0.6, 0.3])
    np.testing.assert_allclose(cat.precision, [1, 1 / 2, 2 / 3])
    np.testing.assert_allclose(cat.recall, [1 / 3, 1 / 3, 2 / 3])
    np.testing.assert_allclose(cat.f1, [1 / 2, 2 / 5, 2 / 3])
    # dogs: 3 boxes; invented at 0.8, right at 0.7, invented at 0.5, right at 0.4
    assert (dog.boxes, dog.threshold.tolist()) == (3, [0.8, 0.7, 0.5, 0.4])
    np.testing.assert_allclose(dog.precision, [0, 1 / 2, 1 / 3, 1 / 2])
    np.testing.assert_allclose(dog.recall, [0, 1 / 3, 1 / 3, 2 / 3])
    np.testing.assert_allclose(dog.f1, [0, 2 / 5, 1 / 3, 4 / 7])
    assert (owl.boxes, owl.precision.tolist(), owl.recall.tolist(), owl.best) == (0, [0], [0], None)
    assert (cat.best, dog.best) == (2, 3)
    assert cat.f1_on_grid()[[1000, 901, 900, 601, 600, 300, 0]].tolist() == [0, 0, 1 / 2, 1 / 2, 2 / 5, 2 / 3, 2 / 3]
    # the mean of cat and dog: (2/3 + 4/7) / 2 up to 0.3, less above
    assert accuracy.threshold == pytest.approx(0.3)
    assert accuracy.mean_f1 == pytest.approx((2 / 3 + 4 / 7) / 2)


def test_confusion_matrix(case):
    # rows: truth cat, dog, owl, background; columns: predicted cat, dog, owl, missed
    assert measure(case).matrix.tolist() == [
        [2, 1, 0, 0],  # found as cat in a and c (before the owl of the same score: classes in their order); as dog in a
        [0, 2, 0, 1],
        [0, 0, 0, 0],
        [1, 1, 1, 0],  # invented: the cat at 0.6, the dog at 0.5, the owl at 0.3
    ]
    assert confusions(measure(case).matrix, case.classes) == [("cat", "dog", 1)]


def test_worst_images(case):
    # a: the cat that was called dog is missed; invented are the second cat and that dog. b: a dog missed, one invented.
    # c: the owl is invented.
    assert worst_images(case, measure(case)) == [(0, 1, 2), (1, 1, 1), (2, 0, 1)]
    assert worst_images(case, measure(case), limit=1) == [(0, 1, 2)]


def iou(a, b, crowd=False) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / (a[2] * a[3] if crowd else a[2] * a[3] + b[2] * b[3] - both)


def by_hand(case, by_class: bool, least: float) -> list[int | None]:
    """For each detection the box that it finds, -1 for none, None for one that does not count; loops, no library."""
    partner: list[int | None] = [-1 if score >= least else None for score in case.score]
    taken: set[int] = set()
    for d in sorted(range(len(partner)), key=lambda d: -case.score[d]):
        if partner[d] is None:
            continue
        pairs = []
        for t in range(len(case.truth_label)):
            same = case.truth_image[t] == case.found_image[d]
            if same and t not in taken and (not by_class or case.truth_label[t] == case.found_label[d]):
                overlap = iou(case.found_box[d], case.truth_box[t], case.crowd[t])
                if overlap >= 0.5:
                    pairs.append((not case.crowd[t], overlap, t))
        if pairs:
            alone, _, t = max(pairs)
            partner[d] = t if alone else None
            taken |= {t} if alone else set()
    return partner


@pytest.mark.parametrize("by_class", [True, False])
def test_matches_of_random_boxes_equal_plain_loops(tmp_path, by_class):
    rng = np.random.default_rng(3)

    def boxes(count):
        return np.hstack((rng.uniform(0, 60, (count, 2)), rng.uniform(10, 30, (count, 2)))).tolist()

    truth = [(rng.choice(list("abc")), int(rng.choice([CAT, DOG])), b, int(rng.random() < 0.1)) for b in boxes(60)]
    found = [
        (image, int(rng.choice([cat, CAT])), [v + rng.uniform(-3, 3) for v in box], s)
        for (image, cat, box, _), s in zip(truth + truth, rng.uniform(0, 1, 120), strict=True)
    ]
    case = read_evaluation(write_case(tmp_path, found, truth))
    for least in (0.0, 0.4):
        matches, expected = match(case, by_class, least), by_hand(case, by_class, least)
        assert [int(t) if c else None for t, c in zip(matches.of_found, matches.counted)] == expected
        right = {t: d for d, t in enumerate(expected) if t is not None and t >= 0}
        assert len(right) > 20 and None in expected
        assert matches.of_truth.tolist() == [right.get(t, -1) for t in range(len(truth))]


def test_nothing_detected_and_nothing_to_detect(tmp_path):
    accuracy = measure(read_evaluation(write_case(tmp_path, found=[])))
    assert accuracy.matrix[:, 3].tolist() == [3, 3, 0, 0] and accuracy.mean_f1 == 0
    accuracy = measure(read_evaluation(write_case(tmp_path, truth=[])))
    assert accuracy.matrix.tolist()[:3] == [[0] * 4] * 3
    assert accuracy.matrix[3].tolist() == [5, 4, 1, 0]  # threshold 0: every detection is invented


def test_missing_and_damaged_files_are_named(tmp_path):
    prefix = write_case(tmp_path)
    (tmp_path / "instances.json").write_text("{")
    with pytest.raises(Unavailable, match=r"no annotations: .*instances\.json"):
        read_evaluation(prefix)
    (tmp_path / "instances.json").write_text("{}")
    with pytest.raises(Unavailable, match="not as expected: KeyError"):
        read_evaluation(prefix)
    (tmp_path / "detections.bbox.json").unlink()
    with pytest.raises(Unavailable, match=r"no detections: .*bbox\.json \(No such file"):
        read_evaluation(prefix)
