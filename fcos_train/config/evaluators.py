"""The metrics of a config: pointed at the data set of the run, with the settings that the user wrote; and their names.

mmdet's ``CocoMetric`` becomes :class:`fcos_train.evaluation.FastCocoMetric` for boxes, which reports the same numbers
without the ``coco/`` in front; masks and proposals stay with ``CocoMetric``. Hooks and schedulers that name a metric
are translated, so that ``save_best="coco/bbox_mAP"`` and
``EarlyStoppingHook(monitor="coco/bbox_mAP")`` go on working.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from fcos_train.config.load import walk
from fcos_train.evaluation.coco import UNSUPPORTED, metric_names
from mmcv_overrides.errors import UserError
from mmcv_overrides.regular_files import read_json

EVALUATORS = ("val_evaluator", "test_evaluator")
COCO = ("CocoMetric", "FastCocoMetric")
# Metrics that read annotations which no layout of boxes holds: where --data-path replaces the data set, they go too.
OTHER_ANNOTATIONS = (
    "CityScapesMetric",
    "CocoPanopticMetric",
    "COCOCaptionMetric",
    "CrowdHumanMetric",
    "LVISMetric",
    "LVISFixedAPMetric",
    "OpenImagesMetric",
    "SemSegMetric",
)
LVIS = ("LVISMetric", "LVISFixedAPMetric")
PLATEAU = "ReduceOnPlateau"  # its monitor is val_loss when none is given


def _type(part: dict[str, Any]) -> str:
    return str(part.get("type", "")).removeprefix("mmdet.").removeprefix("mmengine.")


def _listed(evaluator: Any) -> list[ConfigDict]:
    return [evaluator] if isinstance(evaluator, dict) else list(evaluator or [])


def _kinds(part: dict[str, Any]) -> list[str]:
    """What a COCO metric evaluates: ``bbox``, ``segm``, ``proposal``."""
    metric = part.get("metric")
    return [metric] if isinstance(metric, str) else list(metric or ["bbox"])


def _kind_names(part: dict[str, Any], kind: str) -> list[str]:
    """Names that mmdet's ``CocoMetric`` reports for one kind."""
    if kind == "proposal_fast":
        return [f"AR@{number}" for number in part.get("proposal_nums") or (100, 300, 1000)]
    return [f"{kind}_{size}" for size in ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")]


def point_evaluators(cfg: Config, ann_file: Path) -> list[str]:
    """Let every COCO metric count against ``ann_file``; a config without one gets one. Returns lines for the log.

    What the user set (``classwise``, ``proposal_nums``, ``iou_thrs``, ``outfile_prefix``, ...) is kept, and so are
    metrics of other types.
    """
    notes: list[str] = []
    read = cache(lambda: read_json(ann_file, "annotation file"))  # some hundred MB; only if a metric asks, and once
    for key in EVALUATORS:
        if cfg.get(key) is None:
            continue
        metrics: list[ConfigDict] = []
        for part in _listed(cfg[key]):
            kind = _type(part)
            if kind in COCO:
                metrics += _pointed(key, part, ann_file, read, notes)
            elif kind in LVIS and _has_lvis_fields(read()):
                part["ann_file"] = str(ann_file)
                metrics.append(part)
            elif kind not in OTHER_ANNOTATIONS:
                metrics.append(part)
            else:
                notes.append(f"{key}: {kind} is left out: it reads annotations of another kind than this data set's")
        if not any(_type(part) in COCO for part in metrics):
            others = ", ".join(_type(part) for part in metrics)
            notes += [f"{key}: {others} is kept; FastCocoMetric is added for bbox_mAP"] if others else []
            metrics.append(ConfigDict(type="FastCocoMetric", ann_file=str(ann_file)))
        cfg[key] = metrics[0] if len(metrics) == 1 else metrics
    return list(dict.fromkeys(notes))


def _pointed(
    key: str, part: ConfigDict, ann_file: Path, read: Callable[[], dict], notes: list[str]
) -> list[ConfigDict]:
    """A COCO metric of a config, pointed at ``ann_file``: ours for boxes, mmdet's for masks and proposals."""
    kinds = _kinds(part)
    others = [kind for kind in kinds if kind != "bbox"]
    if "segm" in others and not _has_masks(read()):
        others.remove("segm")
        notes.append(f"{key}: metric segm is left out: no box in {ann_file} has a segmentation")
    found = [_fast(key, part, ann_file, notes)] if "bbox" in kinds or not others else []
    if others:
        kept = ConfigDict(part)
        kept.update(type="CocoMetric", ann_file=str(ann_file), metric=others)
        kept.pop("backend_args", None)
        found.append(kept)
    return found


def _has_masks(data: dict) -> bool:
    return any(annotation.get("segmentation") for annotation in data["annotations"])


def _has_lvis_fields(data: dict) -> bool:
    return bool(data["images"]) and all("neg_category_ids" in image for image in data["images"])


def _fast(key: str, part: ConfigDict, ann_file: Path, notes: list[str]) -> ConfigDict:
    """A COCO metric of a config as ours. Settings that it does not take are left out, with a line."""
    kept = ConfigDict({k: v for k, v in part.items() if k not in UNSUPPORTED})
    for name in UNSUPPORTED:
        if part.get(name) not in (None, UNSUPPORTED[name]):
            notes.append(f"{key}: {name}={part[name]!r} is left out for boxes (FastCocoMetric)")
    numbers = tuple(kept.get("proposal_nums") or ())
    limits = _three_limits(numbers)
    if numbers != limits:
        kept["proposal_nums"] = limits
        notes.append(f"{key}: proposal_nums {numbers} -> {limits}: three limits, ascending; AP counts at the largest")
    kept.update(type="FastCocoMetric", ann_file=str(ann_file), metric="bbox")
    kept.pop("backend_args", None)  # of the file that is replaced
    return kept


def _three_limits(numbers: tuple[int, ...]) -> tuple[int, ...]:
    """Ascending limits; fewer than three, as V3Det's configs have, are filled up with smaller ones of COCO."""
    smaller = [number for number in (1, 10, 100) if numbers and number < min(numbers)]
    return (*smaller[: max(3 - len(numbers), 0)], *sorted(numbers))


def counts_voc(cfg: Config) -> bool:
    """Whether a metric of Pascal VOC is asked for, which reads the protocol to follow from the data set."""
    return any(_type(part) == "VOCMetric" for key in EVALUATORS for part in _listed(cfg.get(key)))


def reported_names(cfg: Config) -> tuple[list[str], bool]:
    """Names that the validation reports, and whether these are all of them (metrics of other types are not known)."""
    names: list[str] = []
    complete = True
    for part in _listed(cfg.get("val_evaluator")):
        kind, prefix = _type(part), part.get("prefix")
        if kind not in COCO or part.get("metric_items"):
            complete = False
            continue
        if kind == "FastCocoMetric":
            found = metric_names(part.get("proposal_nums") or (1, 10, 100))
        else:
            found, prefix = [name for k in _kinds(part) for name in _kind_names(part, k)], prefix or "coco"
        complete = complete and "proposal" not in _kinds(part)  # its names depend on the numbers of proposals
        names += [f"{prefix}/{name}" if prefix else name for name in found]
    if _type(cfg.get("val_cfg") or {}) == "TeacherStudentValLoop":  # validates both models of a semi-supervised one
        names = [f"{model}/{name}" for model in ("teacher", "student") for name in names]
    return names, complete


def translate_monitors(cfg: Config) -> list[str]:
    """Let hooks and schedulers that name a metric use the name that it has in this run. Returns lines for the log.

    Raises:
        UserError: a name that the validation does not report, or a hook that monitors one while nothing is validated.
    """
    names, complete = reported_names(cfg)
    notes = []
    for where, part, key in _monitors(cfg):
        value = part.get(key, "val_loss" if key == "monitor" else None)
        wanted = [value] if isinstance(value, str) else list(value or [])
        if cfg.get("val_evaluator") is None:
            raise UserError(f"{where}: monitors {', '.join(wanted)}, but this run has no validation; remove it")
        found = [_translated(where, name, names, complete) for name in wanted]
        if found != wanted:
            part[key] = found[0] if isinstance(value, str) else found
            notes.append(f"{where}: {', '.join(wanted)} -> {', '.join(found)}, the name of the metric in this run")
    return notes


def _monitors(cfg: Config) -> Iterator[tuple[str, ConfigDict, str]]:
    checkpoint = (cfg.get("default_hooks") or {}).get("checkpoint")
    if checkpoint and checkpoint.get("save_best"):
        yield "default_hooks.checkpoint.save_best", checkpoint, "save_best"
    hooks = [h for h in (cfg.get("default_hooks") or {}).values() if isinstance(h, dict)]
    for hook in [*hooks, *(cfg.get("custom_hooks") or [])]:
        if isinstance(hook, dict) and (hook.get("monitor") or _type(hook) == "EarlyStoppingHook"):
            yield f"{_type(hook)}.monitor", hook, "monitor"
    for scheduler in walk(cfg.get("param_scheduler") or []):
        if scheduler.get("monitor") or _type(scheduler).startswith(PLATEAU):
            yield f"param_scheduler {_type(scheduler)}.monitor", scheduler, "monitor"


def _translated(where: str, name: str, names: list[str], complete: bool) -> str:
    if name == "auto" or name in names:
        return name
    same = [known for known in names if known.split("/")[-1] == name.split("/")[-1]]
    if len(same) == 1:
        return same[0]
    if not complete:
        return name
    near = difflib.get_close_matches(name.split("/")[-1], names, n=1)
    advice = f"did you mean {near[0]}? " if near else ""
    raise UserError(f"{where}: the validation reports no '{name}'; {advice}It reports {', '.join(names)}")
