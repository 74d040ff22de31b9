"""The COCO box metric of training and evaluation, fast enough to run after every epoch."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.registry import METRICS
from mmengine.evaluator import BaseMetric
from mmengine.fileio import get_local_path
from mmengine.logging import MMLogger

from fcos_train.evaluation import classic
from fcos_train.evaluation.coco_scores import (
    COCO_IOU_THRS,
    LARGE,
    MEDIUM,
    SMALL,
    Scores,
    category_ids,
    evaluate_boxes,
    load_annotations,
)
from fcos_train.evaluation.tables import class_table, write_metrics
from mmcv_overrides.dispensable import Dispensable
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_json
from mmcv_overrides.json_values import Id, plain_id
from mmcv_overrides.text_log import FOR_SCRIPTS

__all__ = ["FastCocoMetric", "write_metrics"]

# Arguments of mmdet's CocoMetric that are not supported, with their neutral value.
UNSUPPORTED = {"metric_items": None, "file_client_args": None, "sort_categories": False, "use_mp_eval": False}


@METRICS.register_module()
class FastCocoMetric(BaseMetric):
    """COCO average precision and recall of boxes; replaces ``CocoMetric`` in a config.

    The numbers equal those of pycocotools to 1e-6; they are computed by faster-coco-eval (C++) if it is installed.
    Results, in this order: ``bbox_mAP``, ``_mAP_50``, ``_mAP_75``, ``_mAP_s``, ``_mAP_m``, ``_mAP_l``, and the average
    recalls ``bbox_AR_1``, ``_AR_10``, ``_AR_100`` (named after ``proposal_nums``), ``_AR_s``, ``_AR_m``, ``_AR_l``.
    **-1 means undefined**: the annotations have no box of that size (-1 in pycocotools and mmdet too). Without any
    detection all twelve are 0.

    The twelve lines that mmdet 2.x printed (limits of 100, 300 and 1000 detections) and the per-class table are logged.
    Metrics, classes and timing are written to ``<outfile_prefix>.metrics.json``, the
    detections in COCO result format to ``<outfile_prefix>.bbox.json``. All images of ``ann_file`` count, even if the
    data set does not contain them.

    Args:
        ann_file: COCO annotation file (required).
        metric: ``bbox``, or a list of it.
        classwise: log the per-class table.
        proposal_nums: three ascending detection limits per image and category; AP uses the largest.
        iou_thrs: one or more IoU thresholds; default 0.50:0.05:0.95. ``mAP_50`` is -1 if 0.5 is not among them.
        format_only: write the detections, but compute no metrics.
        outfile_prefix: path prefix of the two JSON files; default ``<work_dir>/detections``.
        work_dir: see ``outfile_prefix``; default the folder of the run's log file. Without it nothing is written.
        backend_args: storage of ``ann_file``, as in mmengine.
        collect_device: as in mmengine's BaseMetric.
        collect_dir: as in mmengine's BaseMetric.
        prefix: prepended to the result names with a slash; none by default, so that log lines contain ``bbox_mAP: ``.

    Attributes:
        per_class: after an evaluation ``{class: {boxes, AP, AP_50, AP_75, AP_s, AP_m, AP_l}}``; nan if the annotations
            have no such box.

    Raises:
        UserError: an unsupported argument of mmdet's ``CocoMetric``, an unreadable annotation file, or classes that the
            annotations lack.
    """

    default_prefix = None

    def __init__(
        self,
        ann_file: str | None = None,
        metric: str | Sequence[str] = "bbox",
        classwise: bool = True,
        proposal_nums: Sequence[int] = (1, 10, 100),
        iou_thrs: float | Sequence[float] | None = None,
        format_only: bool = False,
        outfile_prefix: str | None = None,
        work_dir: str | None = None,
        backend_args: dict | None = None,
        collect_device: str = "cpu",
        collect_dir: str | None = None,
        prefix: str | None = None,
        **unsupported: Any,
    ) -> None:
        # mmengine warns about a missing prefix, which is intended here.
        super().__init__(collect_device=collect_device, prefix=prefix or "none", collect_dir=collect_dir)
        self.prefix = prefix
        _refuse_unsupported(metric, unsupported)
        if ann_file is None:
            raise UserError("FastCocoMetric needs ann_file=...: the annotation file of the validation split")
        self.proposal_nums = tuple(proposal_nums)
        if len(self.proposal_nums) != 3 or list(self.proposal_nums) != sorted(set(self.proposal_nums)):
            raise UserError(f"proposal_nums must be three ascending numbers, each another one, not {proposal_nums}")
        self.iou_thrs: list[float] = np.atleast_1d(COCO_IOU_THRS if iou_thrs is None else iou_thrs).tolist()
        self.ann_file, self.classwise, self.format_only = str(ann_file), classwise, format_only
        if outfile_prefix is None and work_dir is not None:
            outfile_prefix = str(Path(work_dir) / "detections")
        if format_only and outfile_prefix is None:
            raise UserError("format_only=True needs outfile_prefix=...: where to write the detections")
        self.outfile_prefix = outfile_prefix
        self.files = Dispensable("the files of the evaluation")  # in a training; see engine.run.evaluate
        self.per_class: dict[str, dict[str, float]] = {}
        with get_local_path(self.ann_file, backend_args=backend_args) as path:
            self._truth = load_annotations(path)

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep the detections of a batch as arrays: boxes [N, 4], x1 y1 x2 y2 in px of the original image, scores [N],
        labels [N]."""
        for sample in data_samples:
            found = sample["pred_instances"]
            boxes, scores = (found[key].detach().float().cpu().numpy() for key in ("bboxes", "scores"))
            sound = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
            self.results.append(
                {
                    "img_id": plain_id(sample["img_id"]),
                    "boxes": boxes[sound],
                    "scores": scores[sound],
                    "labels": found["labels"].cpu().numpy()[sound].astype(np.int64),  # CrowdDet's are floats
                    "dropped": int((~sound).sum()),
                }
            )

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Compute the metrics, log and write them; the result is described at the class."""
        start = time.perf_counter()
        log = MMLogger.get_current_instance()
        self.outfile_prefix = self.outfile_prefix or _beside_log(log)
        classes = _classes(self.dataset_meta)
        cat_ids = category_ids(self._truth["categories"], classes, self.ann_file)
        self._warn(log, results, cat_ids)
        detections = self._to_coco(results, cat_ids)
        if self.outfile_prefix:
            with self.files.attempt():
                place = write_json(f"{self.outfile_prefix}.bbox.json", detections)
                log.info(f"detections written to {place}", extra=FOR_SCRIPTS)
        if self.format_only:
            return {}
        metrics, twelve, library = self._count(log, classes, cat_ids, detections)
        seconds = time.perf_counter() - start
        done = f"evaluated {len(detections)} detections in {len(results)} images in {seconds:.2f} s ({library})"
        log.info(done, extra=FOR_SCRIPTS)
        for line in classic.lines(twelve, self.iou_thrs):
            log.info(line, extra={"plain": True, **FOR_SCRIPTS})
        if self.classwise:
            # One record per row: the logger hides long records from the terminal.
            for row in class_table([{"name": k, **v} for k, v in self.per_class.items()]).splitlines():
                log.info(row, extra=FOR_SCRIPTS)
        if self.outfile_prefix:
            self._write_summary(metrics, len(results), len(detections), seconds, library)
        return metrics

    def _count(
        self, log: logging.Logger, classes: list[str], cat_ids: list[Id], detections: list[dict]
    ) -> tuple[dict[str, float], Sequence[float], str]:
        """The named numbers, those of the classic lines, and what computed them."""
        if detections:
            scores = evaluate_boxes(self._truth, detections, cat_ids, self.proposal_nums, self.iou_thrs)
            self.per_class = self._by_class(classes, cat_ids, scores)
            return self._twelve(scores), self._classic(scores, cat_ids, detections), scores.evaluator
        log.warning(
            "the model detected nothing in any image, so every score is 0. This is normal early in training; "
            "later, check the learning rate and the score threshold (model.test_cfg.score_thr)."
        )
        self.per_class = self._by_class(classes, cat_ids, None)
        return dict.fromkeys(metric_names(self.proposal_nums), 0.0), (0.0,) * 12, "nothing to count"

    def _classic(self, scores: Scores, cat_ids: list[Id], detections: list[dict]) -> Sequence[float]:
        """The numbers of the classic lines. Their limits mean the same as ours if no image has more of a category."""
        most = max(Counter((found["image_id"], found["category_id"]) for found in detections).values())
        limits = []
        for limit in classic.MAX_DETS:
            limits += [i for i, own in enumerate(self.proposal_nums) if min(own, most) == min(limit, most)][:1]
        if len(limits) == len(classic.MAX_DETS):
            return classic.twelve(scores, limits)
        return classic.twelve(evaluate_boxes(self._truth, detections, cat_ids, classic.MAX_DETS, self.iou_thrs))

    def _twelve(self, scores: Scores) -> dict[str, float]:
        sizes = (SMALL, MEDIUM, LARGE)
        values = [scores.ap(), scores.ap(iou=0.5), scores.ap(iou=0.75), *(scores.ap(area=size) for size in sizes)]
        values += [scores.ar(limit) for limit in range(3)] + [scores.ar(area=size) for size in sizes]
        return dict(zip(metric_names(self.proposal_nums), values, strict=True))

    def _by_class(self, classes: list[str], cat_ids: list[Id], scores: Scores | None) -> dict[str, dict[str, float]]:
        """Per-class scores; without detections 0, or nan for a class without boxes."""
        counts = dict.fromkeys(cat_ids, 0)
        for ann in self._truth["annotations"]:
            if not ann["iscrowd"] and ann["category_id"] in counts:
                counts[ann["category_id"]] += 1
        table = {}
        for index, (name, cat_id) in enumerate(zip(classes, cat_ids, strict=True)):
            ask: dict[str, dict[str, Any]] = {"AP": {}, "AP_50": {"iou": 0.5}, "AP_75": {"iou": 0.75}}
            ask |= {f"AP_{size}": {"area": area} for size, area in (("s", SMALL), ("m", MEDIUM), ("l", LARGE))}
            nothing = 0.0 if counts[cat_id] else -1.0
            values = {k: nothing if scores is None else scores.ap(category=index, **how) for k, how in ask.items()}
            table[name] = {"boxes": counts[cat_id]} | {k: math.nan if v < 0 else v for k, v in values.items()}
        return table

    def _to_coco(self, results: list[dict], cat_ids: list[Id]) -> list[dict]:
        """COCO results, with boxes as x, y, width, height in px."""
        detections = []
        for result in {result["img_id"]: result for result in reversed(results)}.values():
            boxes = result["boxes"].astype(np.float64)
            boxes[:, 2:] -= boxes[:, :2]
            for box, score, label in zip(
                boxes.tolist(), result["scores"].tolist(), result["labels"].tolist(), strict=True
            ):
                if label >= len(cat_ids):
                    raise UserError(
                        f"the model predicts class {label}, but the data set has {len(cat_ids)} classes: "
                        "num_classes of the head does not match this data set"
                    )
                detections.append(
                    {"image_id": result["img_id"], "category_id": cat_ids[label], "bbox": box, "score": score}
                )
        return detections

    def _warn(self, log: logging.Logger, results: list[dict], cat_ids: list[Id]) -> None:
        """Warn of what makes a score misleading; raise if images are not in the annotations."""
        seen, known = [result["img_id"] for result in results], {image["id"] for image in self._truth["images"]}
        foreign = sorted(set(seen) - known, key=str)
        if foreign:
            raise UserError(
                f"the data set contains images that {self.ann_file} does not list (ids {foreign[:5]} ...): "
                "val_dataloader and val_evaluator must use the same annotation file"
            )
        if len(set(seen)) < len(known):
            log.warning(
                f"{len(known) - len(set(seen))} of the {len(known)} images in {self.ann_file} were not evaluated; "
                "their boxes count as missed"
            )
        if len(seen) > len(set(seen)):
            log.warning(f"{len(seen) - len(set(seen))} images were evaluated twice; the first result of each counts")
        dropped = sum(result["dropped"] for result in results)
        if dropped:
            log.warning(f"{dropped} detections were not finite (nan or inf) and were dropped")
        in_file = [category["id"] for category in self._truth["categories"] if category["id"] in set(cat_ids)]
        if in_file != cat_ids:
            log.warning(
                f"the categories of {self.ann_file} are in another order than the model's classes. Detections are "
                "matched by class name; mmdet's CocoDataset numbers labels in file order, so make sure that the "
                "training annotations are in the order of the classes."
            )

    def _write_summary(
        self, metrics: dict[str, float], images: int, detections: int, seconds: float, library: str
    ) -> None:
        summary = {
            "metrics": metrics,
            "per_class": self.per_class,
            "ann_file": self.ann_file,
            "images": images,
            "detections": detections,
            "seconds": round(seconds, 3),
            "evaluator": library,
        }
        with self.files.attempt():
            write_metrics(f"{self.outfile_prefix}.metrics.json", summary)


def _beside_log(log: logging.Logger) -> str | None:
    """A prefix in the folder of the run's log file, because mmengine does not pass the work folder to a metric."""
    files = [handler.baseFilename for handler in log.handlers if isinstance(handler, logging.FileHandler)]
    return str(Path(files[0]).parent / "detections") if files else None


def _classes(dataset_meta: dict | None) -> list[str]:
    classes = (dataset_meta or {}).get("classes")
    if not classes or isinstance(classes, str):
        raise UserError(
            f"the data set's classes are {classes!r}; they must be a list of names, "
            "for one class with a comma: metainfo=dict(classes=('name',))"
        )
    return list(classes)


def metric_names(proposal_nums: Sequence[int]) -> list[str]:
    """Names of the twelve numbers, in order, for three detection limits per image and category."""
    recalls = [f"AR_{number}" for number in proposal_nums] + ["AR_s", "AR_m", "AR_l"]
    return [f"bbox_{key}" for key in ["mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l", *recalls]]


def _refuse_unsupported(metric: str | Sequence[str], unsupported: dict) -> None:
    kinds = [metric] if isinstance(metric, str) else list(metric)
    if kinds != ["bbox"]:
        raise UserError(f"FastCocoMetric evaluates boxes (metric='bbox'), not {kinds}; use type='CocoMetric' for these")
    for name, value in unsupported.items():
        if name not in UNSUPPORTED:
            raise UserError(f"FastCocoMetric has no argument '{name}'")
        if value != UNSUPPORTED[name]:
            raise UserError(f"FastCocoMetric does not support {name}={value!r}; remove it or use type='CocoMetric'")
