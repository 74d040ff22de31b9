"""The metrics of a config: pointed at the data set of the run, with the settings that the user wrote; and their names.

mmdet's ``CocoMetric`` becomes :class:`fcos_train.evaluation.FastCocoMetric`, which reports the same numbers without the
``coco/`` in front. Hooks and schedulers that name a metric are translated, so that ``save_best="coco/bbox_mAP"`` and
``EarlyStoppingHook(monitor="coco/bbox_mAP")`` go on working.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from fcos_train.config.load import walk
from fcos_train.evaluation.coco import UNSUPPORTED, metric_names
from mmcv_overrides.errors import UserError

EVALUATORS = ("val_evaluator", "test_evaluator")
COCO = ("CocoMetric", "FastCocoMetric")
PLATEAU = "ReduceOnPlateau"  # its monitor is val_loss when none is given


def _type(part: dict[str, Any]) -> str:
    return str(part.get("type", "")).removeprefix("mmdet.").removeprefix("mmengine.")


def _listed(evaluator: Any) -> list[ConfigDict]:
    return [evaluator] if isinstance(evaluator, dict) else list(evaluator or [])


def _kinds(part: dict[str, Any]) -> list[str]:
    """What a COCO metric evaluates: ``bbox``, ``segm``, ``proposal``."""
    metric = part.get("metric")
    return [metric] if isinstance(metric, str) else list(metric or ["bbox"])


def point_evaluators(cfg: Config, ann_file: Path) -> list[str]:
    """Let every COCO metric count against ``ann_file``; a config without one gets one. Returns lines for the log.

    What the user set (``classwise``, ``proposal_nums``, ``iou_thrs``, ``outfile_prefix``, ...) is kept, and so are
    metrics of other types.
    """
    notes: list[str] = []
    for key in EVALUATORS:
        if cfg.get(key) is None:
            continue
        metrics = [_fast(key, part, ann_file, notes) if _type(part) in COCO else part for part in _listed(cfg[key])]
        others = [_type(part) for part in metrics if _type(part) not in COCO]
        if len(others) == len(metrics):
            metrics.append(ConfigDict(type="FastCocoMetric", ann_file=str(ann_file)))
            notes.append(f"{key}: {', '.join(others)} is kept; FastCocoMetric is added for bbox_mAP")
        cfg[key] = metrics[0] if len(metrics) == 1 else metrics
    return list(dict.fromkeys(notes))


def _fast(key: str, part: ConfigDict, ann_file: Path, notes: list[str]) -> ConfigDict:
    """A COCO metric of a config as ours. Settings that boxes alone cannot have are left out, with a line."""
    kept = ConfigDict({k: v for k, v in part.items() if k not in UNSUPPORTED})
    dropped = {k: part[k] for k in UNSUPPORTED if part.get(k) not in (None, UNSUPPORTED[k])}
    kinds = _kinds(part)
    if kinds != ["bbox"]:
        dropped["metric"] = kinds
    for name, value in dropped.items():
        notes.append(f"{key}: {name}={value!r} is left out: only boxes are evaluated (FastCocoMetric)")
    numbers = list(kept.get("proposal_nums") or ())
    if numbers != sorted(numbers):
        kept["proposal_nums"] = tuple(sorted(numbers))
        notes.append(f"{key}: proposal_nums {tuple(numbers)} -> {tuple(sorted(numbers))}: the limits must ascend")
    kept.update(type="FastCocoMetric", ann_file=str(ann_file), metric="bbox")
    kept.pop("backend_args", None)  # of the file that is replaced
    return kept


def reported_names(cfg: Config) -> tuple[list[str], bool]:
    """Names that the validation reports, and whether these are all of them (metrics of other types are not known)."""
    names: list[str] = []
    complete = True
    for part in _listed(cfg.get("val_evaluator")):
        kind = _type(part)
        if kind not in COCO or _kinds(part) != ["bbox"] or part.get("metric_items"):
            complete = False
            continue
        if kind == "CocoMetric":  # mmdet reports six numbers
            found, prefix = [n for n in metric_names((1, 10, 100)) if "_AR_" not in n], part.get("prefix") or "coco"
        else:
            found, prefix = metric_names(part.get("proposal_nums") or (1, 10, 100)), part.get("prefix")
        names += [f"{prefix}/{name}" if prefix else name for name in found]
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
