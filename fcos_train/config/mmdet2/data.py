"""The section ``data`` of an mmdet 2.x configuration: loaders, data sets and metrics of mmdet 3.x."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

from fcos_train.config.mmdet2.pipeline import modern_pipeline
from mmcv_overrides.errors import UserError

Part = dict[str, Any]
Say = Callable[[str], None]
SPLITS = ("train", "val", "test")
WRAPPERS = ("RepeatDataset", "ClassBalancedDataset", "MultiImageMixDataset", "ConcatDataset")
MIN_SIZE = 32  # px; 2.x leaves out smaller images when it trains
COCO_SETTINGS = ("classwise", "proposal_nums", "iou_thrs", "metric_items")
VOC_SETTINGS = ("iou_thr", "scale_ranges", "eval_mode")
LEFT_OUT = ("separate_eval", "skip_type_keys", "dynamic_scale", "palette", "version")


def modern_loaders(data: Part, evaluation: Part, say: Say) -> Part:
    """``<split>_dataloader`` and ``<split>_evaluator`` for each split of ``data``; None for one that is absent.

    Args:
        data: the section, plain values. evaluation: the section of the metrics.

    Raises:
        UserError: a data set or a step of a pipeline that has no counterpart.
    """
    found: Part = {}
    for split in SPLITS:
        old = data.get(split) or (data.get("test") if split == "val" else None)
        found[f"{split}_dataloader"] = None if old is None else _loader(old, data, split, say)
        if split != "train":
            found[f"{split}_evaluator"] = None if old is None else _evaluator(old, evaluation, say)
    return found


def pipelines_of(data: Part) -> list[list[Part]]:
    """Every pipeline of the section, that of the test first."""
    return [
        list(part["pipeline"]) for split in reversed(SPLITS) for part in _parts(data.get(split)) if part.get("pipeline")
    ]


def _parts(node: Any) -> Iterator[Part]:
    """A data set and those inside it, outermost first."""
    if isinstance(node, (list, tuple)):
        for one in node:
            yield from _parts(one)
    elif isinstance(node, dict):
        yield node
        yield from _parts(node.get("dataset"))
        yield from _parts(node.get("datasets"))


def _loader(old: Any, data: Part, split: str, say: Say) -> Part:
    own: Part = data.get(f"{split}_dataloader") or {}
    default: Any = data.get("samples_per_gpu", data.get("imgs_per_gpu", 1)) if split == "train" else 1
    workers = int(own["workers_per_gpu"] if "workers_per_gpu" in own else data.get("workers_per_gpu", 2))
    loader = {
        "batch_size": int(own.get("samples_per_gpu", default)),
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "sampler": {"type": "DefaultSampler", "shuffle": split == "train"},
        "dataset": _dataset(old, split, say),
    }
    if split == "train":
        return {**loader, "batch_sampler": {"type": "AspectRatioBatchSampler"}}
    return {**loader, "drop_last": False}


def _dataset(old: Any, split: str, say: Say) -> Part:
    if isinstance(old, (list, tuple)):
        return {"type": "ConcatDataset", "datasets": [_dataset(one, split, say) for one in old]}
    if not isinstance(old, dict) or "type" not in old:
        raise UserError(f"data.{split} of this mmdet 2.x configuration is no data set")
    new = {key: value for key, value in old.items() if key not in LEFT_OUT}
    if new.get("pipeline"):
        new["pipeline"] = modern_pipeline(new["pipeline"], say, f"data.{split}.pipeline")
    if new["type"] in WRAPPERS:
        for key in ("dataset", "datasets"):
            if key in new:
                inner = new[key]
                new[key] = (
                    [_dataset(one, split, say) for one in inner] if key == "datasets" else _dataset(inner, split, say)
                )
        return new
    files = new.get("ann_file")
    if isinstance(files, (list, tuple)):
        return {"type": "ConcatDataset", "datasets": [_leaf(_nth(new, n), split) for n in range(len(files))]}
    return _leaf(new, split)


def _nth(leaf: Part, index: int) -> Part:
    """The data set of one annotation file of several."""
    many = ("ann_file", "img_prefix", "seg_prefix", "proposal_file")
    return {k: v[index] if k in many and isinstance(v, (list, tuple)) else v for k, v in leaf.items()}


def _leaf(leaf: Part, split: str) -> Part:
    """A data set that reads files."""
    images, masks = leaf.pop("img_prefix", None), leaf.pop("seg_prefix", None)
    classes, keep_empty = leaf.pop("classes", None), leaf.pop("filter_empty_gt", True)
    leaf.pop("file_client_args", None)
    voc = leaf["type"] == "VOCDataset"
    prefix = {("sub_data_root" if voc else "img"): images, "seg": masks}
    leaf["data_prefix"] = {key: value for key, value in prefix.items() if value is not None}
    leaf.setdefault("data_root", "")
    leaf["data_root"] = leaf["data_root"] or ""
    if classes is not None:
        leaf["metainfo"] = {"classes": classes if isinstance(classes, str) else tuple(classes)}
    leaf["test_mode"] = split != "train"
    if split == "train":
        leaf["filter_cfg"] = {"filter_empty_gt": bool(keep_empty), "min_size": MIN_SIZE}
    return leaf


def _evaluator(old: Any, evaluation: Part, say: Say) -> Part | None:
    leaf = next((part for part in _parts(old) if "ann_file" in part), None)
    metric = evaluation.get("metric", "bbox")
    if leaf is None or not isinstance(leaf["ann_file"], str):
        say("the metric of several annotation files -> nothing: give the data with --data-path")
        return None
    if leaf["type"] == "VOCDataset":
        return {"type": "VOCMetric", "metric": "mAP", "eval_mode": "11points", **_kept(evaluation, VOC_SETTINGS)}
    boxes = metric in ("bbox", ["bbox"], ("bbox",))
    return {
        "type": "FastCocoMetric" if boxes else "CocoMetric",
        "ann_file": os.path.join(leaf.get("data_root") or "", leaf["ann_file"]),
        **({} if boxes else {"metric": metric}),
        **_kept(evaluation, COCO_SETTINGS),
    }


def _kept(evaluation: Part, names: tuple[str, ...]) -> Part:
    return {name: evaluation[name] for name in names if evaluation.get(name) is not None}
