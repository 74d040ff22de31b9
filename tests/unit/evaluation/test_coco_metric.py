"""FastCocoMetric as the runner uses it: samples in, named numbers, log lines and files out."""

import contextlib
import io
import json
import logging
import math
import uuid

import numpy as np
import pytest
import torch
from mmdet.registry import METRICS
from mmengine.logging import MMLogger

from fcos_train.evaluation import FastCocoMetric, classic, write_metrics
from fcos_train.evaluation.tables import class_table
from mmcv_overrides.errors import UserError

KEYS = ["mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l", "AR_1", "AR_10", "AR_100", "AR_s", "AR_m", "AR_l"]


@pytest.fixture
def gt(tmp_path):
    """Two images, classes apple (id 4) and pear (id 2), three boxes, one class without a box."""
    boxes = [(1, 4, [10, 10, 20, 20]), (1, 2, [50, 50, 60, 60]), (2, 4, [5, 5, 120, 120])]
    data = {
        "images": [{"id": 1}, {"id": 2}],
        "annotations": [{"id": i, "image_id": m, "category_id": c, "bbox": b} for i, (m, c, b) in enumerate(boxes)],
        "categories": [{"id": 4, "name": "apple"}, {"id": 2, "name": "pear"}, {"id": 9, "name": "plum"}],
    }
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(data))
    return path


@pytest.fixture
def log_lines():
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(f"{record.levelname} {record.getMessage()}")
    # a fresh one is the current one, whatever loggers other tests have left
    logger = MMLogger.get_instance(f"metric-{uuid.uuid4()}", logger_name="metric", log_level="INFO")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def sample(img_id, boxes, scores, labels, dtype=torch.float32):
    found = {
        "bboxes": torch.tensor(boxes, dtype=dtype).reshape(-1, 4),
        "scores": torch.tensor(scores, dtype=dtype),
        "labels": torch.tensor(labels, dtype=torch.int64),
    }
    return {"img_id": img_id, "pred_instances": found}


def perfect():
    return [
        sample(1, [[10, 10, 30, 30], [50, 50, 110, 110]], [0.9, 0.8], [0, 1]),
        sample(2, [[5, 5, 125, 125]], [0.7], [0]),
    ]


def build(gt, classes=("apple", "pear", "plum"), **options):
    metric = METRICS.build({"type": "FastCocoMetric", "ann_file": str(gt), **options})
    metric.dataset_meta = {"classes": classes}
    return metric


def test_perfect_detections(gt, tmp_path, log_lines):
    metric = build(gt, work_dir=str(tmp_path / "run"))
    metric.process({}, perfect())
    result = metric.evaluate(size=2)
    assert list(result) == [f"bbox_{key}" for key in KEYS]
    assert all(value == pytest.approx(1.0) for value in result.values())
    assert metric.per_class["apple"]["boxes"] == 2 and metric.per_class["pear"]["AP"] == pytest.approx(1.0)
    assert math.isnan(metric.per_class["plum"]["AP"]) and math.isnan(metric.per_class["pear"]["AP_s"])
    text = "\n".join(log_lines)
    assert "evaluated 3 detections in 2 images in " in text and "faster-coco-eval" in text
    assert any(line.split()[1:5] == ["plum", "0", "-", "-"] for line in log_lines)

    found = json.loads((tmp_path / "run/detections.bbox.json").read_text())
    pear = {"image_id": 1, "category_id": 2, "bbox": [50, 50, 60, 60], "score": pytest.approx(0.8)}
    assert [d for d in found if d["category_id"] == 2] == [pear]
    summary = json.loads((tmp_path / "run/detections.metrics.json").read_text())
    assert summary["metrics"] == result and summary["per_class"]["plum"]["AP"] is None
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "detections.bbox.json",
        "detections.metrics.json",
    ]


@pytest.mark.parametrize("ids", [("one", "two"), (2**60, 2**60 + 1), ("1", "01")])
def test_image_ids_of_any_kind(gt, tmp_path, ids):
    data = json.loads(gt.read_text())
    for image in data["images"]:
        image["id"] = ids[image["id"] - 1]
    for annotation in data["annotations"]:
        annotation.update(image_id=ids[annotation["image_id"] - 1], iscrowd=None, area=None)
    gt.write_text(json.dumps(data))
    metric = build(gt, work_dir=str(tmp_path / "run"))
    metric.process({}, [{**s, "img_id": ids[s["img_id"] - 1]} for s in perfect()])
    assert metric.evaluate(2)["bbox_mAP"] == 1.0
    found = json.loads((tmp_path / "run" / "detections.bbox.json").read_text())
    assert sorted(box["image_id"] for box in found) == sorted([ids[0], ids[0], ids[1]])


def test_files_go_beside_the_log_by_default(gt, tmp_path):
    metric = build(gt)
    logger, handler = MMLogger.get_current_instance(), logging.FileHandler(tmp_path / "now.log")
    logger.handlers.insert(0, handler)
    try:
        metric.process({}, perfect())
        metric.evaluate(size=2)
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert (tmp_path / "detections.metrics.json").is_file()


def test_undefined_sizes_stay_minus_one(tmp_path):
    data = {
        "images": [{"id": 1}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50]}],
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "gt.json").write_text(json.dumps(data))
    metric = build(tmp_path / "gt.json", classes=["a"])
    metric.process({}, [sample(1, [[0, 0, 50, 50]], [0.5], [0])])
    result = metric.evaluate(size=1)
    assert (result["bbox_mAP_s"], result["bbox_mAP_m"], result["bbox_mAP_l"]) == (-1, pytest.approx(1), -1)
    assert result["bbox_AR_l"] == -1


def test_no_detection_at_all_is_zero(gt, log_lines):
    metric = build(gt)
    metric.process({}, [sample(1, [], [], []), sample(2, [], [], [])])
    result = metric.evaluate(size=2)
    assert list(result.values()) == [0.0] * 12
    assert metric.per_class["apple"]["AP"] == 0 and math.isnan(metric.per_class["plum"]["AP"])
    assert any("detected nothing" in line for line in log_lines)


def test_labels_that_are_floats(gt, tmp_path):
    """CrowdDet's heads return zeros in the type of the scores."""
    metric = build(gt, work_dir=str(tmp_path / "run"))
    found = perfect()
    for item in found:
        item["pred_instances"]["labels"] = item["pred_instances"]["labels"].float()
    metric.process({}, found)
    assert metric.evaluate(size=2)["bbox_mAP"] == pytest.approx(1.0)


def test_labels_follow_class_names_not_file_order(gt, log_lines):
    metric = build(gt, classes=["plum", "pear", "apple"])
    swapped = perfect()
    for item in swapped:
        item["pred_instances"]["labels"] = 2 - item["pred_instances"]["labels"]
    metric.process({}, swapped)
    assert metric.evaluate(size=2)["bbox_mAP"] == pytest.approx(1.0)
    assert any("another order" in line for line in log_lines)


def test_half_precision_and_non_finite(gt, log_lines):
    metric = build(gt)
    samples = perfect()
    samples[1] = sample(2, [[5, 5, 125, 125], [math.nan, 0, 1, 1]], [0.7, 0.99], [0, 0], dtype=torch.bfloat16)
    metric.process({}, samples)
    assert metric.evaluate(size=2)["bbox_mAP"] == pytest.approx(1.0)
    assert any("1 detections were not finite" in line for line in log_lines)


def test_missing_and_foreign_images(gt, log_lines):
    metric = build(gt)
    metric.process({}, perfect()[:1])
    assert metric.evaluate(size=1)["bbox_mAP"] < 1
    assert any("1 of the 2 images" in line for line in log_lines)
    metric.process({}, [sample(77, [], [], [])])
    with pytest.raises(UserError, match="does not list"):
        metric.evaluate(size=1)


def test_class_beyond_the_data(gt):
    metric = build(gt, classes=["apple"])
    metric.process({}, [sample(1, [[0, 0, 5, 5]], [0.5], [3])])
    with pytest.raises(UserError, match="predicts class 3, but the data set has 1"):
        metric.evaluate(size=1)


def test_arguments_of_mmdets_metric(gt, tmp_path):
    mmdet_style = {"metric": ["bbox"], "classwise": True, "format_only": False, "backend_args": None}
    build(gt, **mmdet_style, use_mp_eval=False, metric_items=None, proposal_nums=(100, 300, 1000))
    assert build(gt, prefix="coco").prefix == "coco" and build(gt).prefix is None
    for bad in (
        {"metric": "segm"},
        {"metric": ["bbox", "proposal"]},
        {"use_mp_eval": True},
        {"metric_items": ["mAP"]},
        {"clsswise": True},
        {"proposal_nums": (100, 10)},
        {"format_only": True},
    ):
        with pytest.raises(UserError):
            build(gt, **bad)
    with pytest.raises(UserError, match="ann_file"):
        FastCocoMetric()
    with pytest.raises(UserError, match="for one class with a comma"):
        metric = build(gt, classes="apple")
        metric.process({}, perfect())
        metric.evaluate(size=2)


def test_format_only_writes_detections_alone(gt, tmp_path):
    metric = build(gt, format_only=True, outfile_prefix=str(tmp_path / "sub/out"))
    metric.process({}, perfect())
    assert metric.evaluate(size=2) == {}
    assert len(json.loads((tmp_path / "sub/out.bbox.json").read_text())) == 3
    assert not (tmp_path / "sub/out.metrics.json").exists()


def test_one_iou_threshold(gt):
    metric = build(gt, iou_thrs=0.5)
    metric.process({}, perfect())
    result = metric.evaluate(size=2)
    assert result["bbox_mAP"] == result["bbox_mAP_50"] == pytest.approx(1.0)
    assert result["bbox_mAP_75"] == -1


def test_write_metrics(tmp_path):
    path = write_metrics(tmp_path / "a/m.json", {"x": np.float32(0.5), "y": math.nan, "z": [torch.tensor(2)]})
    assert json.loads(path.read_text()) == {"x": 0.5, "y": None, "z": [2]}
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_metrics(tmp_path / "file/m.json", {})


def test_table_puts_many_classes_side_by_side():
    rows = [{"name": f"class{i}", "boxes": i, "AP": 0.5, "AP_50": 0.6, "AP_75": math.nan} for i in range(80)]
    lines = class_table(rows).splitlines()
    assert len(lines) == 28 and all(len(line) <= 150 for line in lines)
    assert lines[1].split("|")[1].split()[:2] == ["class27", "27"]


PYCOCOTOOLS = """\
 Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 1.000
 Average Precision  (AP) @[ IoU=0.50      | area=   all | maxDets=1000 ] = 1.000
 Average Precision  (AP) @[ IoU=0.75      | area=   all | maxDets=1000 ] = 1.000
 Average Precision  (AP) @[ IoU=0.50:0.95 | area= small | maxDets=1000 ] = 1.000
 Average Precision  (AP) @[ IoU=0.50:0.95 | area=medium | maxDets=1000 ] = 1.000
 Average Precision  (AP) @[ IoU=0.50:0.95 | area= large | maxDets=1000 ] = 1.000
 Average Recall     (AR) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = 1.000
 Average Recall     (AR) @[ IoU=0.50:0.95 | area=   all | maxDets=300 ] = 1.000
 Average Recall     (AR) @[ IoU=0.50:0.95 | area=   all | maxDets=1000 ] = 1.000
 Average Recall     (AR) @[ IoU=0.50:0.95 | area= small | maxDets=1000 ] = 1.000
 Average Recall     (AR) @[ IoU=0.50:0.95 | area=medium | maxDets=1000 ] = 1.000
 Average Recall     (AR) @[ IoU=0.50:0.95 | area= large | maxDets=1000 ] = 1.000
"""


def test_the_lines_of_mmdet_2(gt, log_lines):
    metric = FastCocoMetric(ann_file=str(gt))
    metric.dataset_meta = {"classes": ["apple", "pear", "plum"]}
    metric.process(None, perfect())
    metric.evaluate(2)
    said = [line.removeprefix("INFO ") for line in log_lines if "@[" in line]
    assert said == PYCOCOTOOLS.splitlines()


@pytest.mark.parametrize(
    ("limits", "boxes"),
    [((1, 10, 100), 5), ((1, 10, 100), 130), ((100, 300, 1000), 130), ((1, 2, 3), 5), ((2, 10, 1000), 400)],
)
def test_the_numbers_of_the_lines_are_those_of_pycocotools(tmp_path, log_lines, limits, boxes):
    """Whatever limits the metric itself has, also with more detections of a category in an image than those."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    rng = np.random.default_rng(boxes)
    truth = [(image, [*rng.uniform(0, 300, 2), *rng.uniform(8, 120, 2)]) for image in (1, 1, 1, 2, 2, 3)]
    data = {
        "images": [{"id": i} for i in (1, 2, 3)],
        "annotations": [
            {"id": i, "image_id": m, "category_id": 1, "bbox": b, "area": b[2] * b[3], "iscrowd": 0}
            for i, (m, b) in enumerate(truth, start=1)
        ],
        "categories": [{"id": 1, "name": "apple"}],
    }
    path = tmp_path / "gt.json"
    path.write_text(json.dumps(data))
    metric = FastCocoMetric(ann_file=str(path), proposal_nums=limits)
    metric.dataset_meta = {"classes": ["apple"]}
    found = []
    for image in (1, 2, 3):
        own = [box for m, box in truth if m == image]
        near = np.array([own[i % len(own)] for i in range(boxes)]) + rng.normal(0, 6, (boxes, 4))
        near[:, 2:] = near[:, 2:].clip(1)
        scores = rng.permutation(boxes) / boxes  # no ties
        xyxy = np.concatenate((near[:, :2], near[:, :2] + near[:, 2:]), 1)
        metric.process(None, [sample(image, xyxy, scores, [0] * boxes, torch.float64)])
        kept = xyxy.astype(np.float32).astype(np.float64)
        kept[:, 2:] -= kept[:, :2]
        found += [
            {"image_id": image, "category_id": 1, "bbox": b.tolist(), "score": float(np.float32(s))}
            for b, s in zip(kept, scores, strict=True)
        ]
    metric.evaluate(3)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        coco = COCO(str(path))
        reference = COCOeval(coco, coco.loadRes(found), "bbox")
        reference.params.maxDets = [100, 300, 1000]
        reference.evaluate()
        reference.accumulate()
    values = []
    for precision, iou, area, limit in classic.LINES:
        table = reference.eval["precision" if precision else "recall"][..., classic.AREAS.index(area), limit]
        table = table if iou is None else table[np.isclose(reference.params.iouThrs, iou)]
        values.append(table[table > -1].mean() if (table > -1).any() else -1.0)
    said = [line.removeprefix("INFO ") for line in log_lines if "@[" in line]
    assert said == classic.lines(values)
