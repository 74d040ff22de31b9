"""Which training loaders can produce fixed-shape batches, and which shapes they need."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mmengine.config import Config, ConfigDict

COLLATE, SAMPLER, PREPROCESSOR = "fixed_shape_collate", "ShapeBatchSampler", "FixedShapePreprocessor"
STOCK = {"collate_fn": "pseudo_collate", "batch_sampler": "AspectRatioBatchSampler"}
WRAPPERS = {"RepeatDataset", "ClassBalancedDataset", "MultiImageMixDataset"}
MIX = "MultiImageMixDataset"
# Pipeline steps that keep the size of an image, and steps that set it.
KEEP = {
    *("LoadImageFromFile", "LoadImage", "LoadAnnotations", "RandomFlip", "PhotoMetricDistortion", "PackDetInputs"),
    *("YOLOXHSVRandomAug", "FilterAnnotations", "RandomErasing", "CutOut"),
    *("CentredAffine", "SameSizeMosaic", "SameSizeMixUp"),
}
SIZE = {"Resize", "RandomChoiceResize", "FixScaleResize"}


def set_batch(cfg: Config, channels_last: bool) -> str:
    """Make the training loader produce fixed-shape uint8 images with padded objects. Returns the line for the log.

    ``shapes`` of a ``fixed_shape_collate`` in the config are kept; with them a config can have more shapes, or one
    square.
    """
    fault = _fault(cfg)
    if fault:
        return f"batches as mmdet makes them: {fault}"
    loader = cfg.train_dataloader
    scales = _scales(_pipeline(loader.dataset) or [])
    given = loader.get("collate_fn") or {}
    divisor = cfg.model.data_preprocessor.get("pad_size_divisor", 1)
    shapes = given.get("shapes") if given.get("type") == COLLATE else None
    if shapes is None:
        shapes = two_shapes(scales, divisor) if scales else []
    loader["collate_fn"] = ConfigDict(type=COLLATE, shapes=shapes, divisor=divisor, channels_last=channels_last)
    scale = scales[0] if scales and len(scales) == 1 else None
    loader["batch_sampler"] = ConfigDict(type=SAMPLER, scale=scale, shapes=shapes)
    cfg.model.data_preprocessor["type"] = PREPROCESSOR
    if not shapes:
        return f"batches: uint8, shapes vary (the pipeline has no fixed size), multiples of {divisor}"
    return f"batches: uint8, shapes {', '.join(f'{h}x{w}' for h, w in shapes)} (rows x columns)"


def fixed_shapes(cfg: Config) -> list[tuple[int, int]]:
    """The (rows, columns) that :func:`set_batch` has chosen; empty if shapes vary."""
    fixed = cfg.model.data_preprocessor.get("type") == PREPROCESSOR and _fault(cfg) is None
    return list(cfg.train_dataloader["collate_fn"]["shapes"]) if fixed else []


def reset_batch(cfg: Config) -> None:
    """Restore mmdet's own batches."""
    loader, preprocessor = cfg.get("train_dataloader"), cfg.model.get("data_preprocessor")
    for key, kind in (("collate_fn", COLLATE), ("batch_sampler", SAMPLER)):
        if loader is not None and (loader.get(key) or {}).get("type") == kind:
            loader[key] = ConfigDict(type=STOCK[key])
    if preprocessor is not None and preprocessor.get("type") == PREPROCESSOR:
        preprocessor["type"] = "DetDataPreprocessor"


def two_shapes(scales: Sequence[Sequence[int]], divisor: int) -> list[tuple[int, int]]:
    """Landscape and portrait (rows, columns) for images resized into (long, short) px with their aspect ratio kept."""
    long, short = (math.ceil(max(side(s) for s in scales) / divisor) * divisor for side in (max, min))
    return [(short, long), (long, short)] if short != long else [(short, long)]


def _fault(cfg: Config) -> str | None:
    loader, preprocessor = cfg.get("train_dataloader"), cfg.model.get("data_preprocessor") or {}
    if preprocessor.get("type") not in ("DetDataPreprocessor", "mmdet.DetDataPreprocessor", PREPROCESSOR):
        return f"data_preprocessor {preprocessor.get('type')} has no fixed-shape form"
    for key in ("batch_augments", "pad_mask", "pad_seg"):
        if preprocessor.get(key):
            return f"data_preprocessor.{key} has no fixed-shape form"
    if loader is None or (loader.get("sampler") or {}).get("type") != "DefaultSampler":
        return "another sampler than DefaultSampler"
    for key, kinds in (
        ("collate_fn", (COLLATE, "pseudo_collate")),
        ("batch_sampler", (SAMPLER, STOCK["batch_sampler"])),
    ):
        if loader.get(key) and loader[key].get("type", "").removeprefix("mmdet.") not in kinds:
            return f"train_dataloader.{key} {loader[key].get('type')}"
    pipeline = _pipeline(loader.dataset)
    if not pipeline or pipeline[-1].get("type", "").removeprefix("mmdet.") != "PackDetInputs":
        return "the pipeline does not end with PackDetInputs"
    return None


def _pipeline(dataset: ConfigDict) -> list[ConfigDict] | None:
    """The steps of the data set of a loader, through wrappers that keep or repeat its images; None for others."""
    kind = str(dataset.get("type", "")).removeprefix("mmdet.")
    if kind in WRAPPERS:
        steps = _pipeline(dataset.dataset)
        return None if steps is None else [*steps, *(dataset.pipeline if kind == MIX else [])]
    return None if "datasets" in dataset or "dataset" in dataset else dataset.get("pipeline")


def _scales(pipeline: list[ConfigDict]) -> list[tuple[int, int]] | None:
    """The sizes into which images are resized; None if other steps change them too."""
    steps = [(step.get("type", "").removeprefix("mmdet."), step) for step in pipeline]
    sizing = [step for name, step in steps if name in SIZE]
    if len(sizing) != 1 or any(name not in KEEP | SIZE for name, _ in steps):
        return None
    keeps = (sizing[0].get("resize_cfg") or sizing[0]).get("keep_ratio", sizing[0].get("type") == "RandomChoiceResize")
    scales = sizing[0].get("scales") or [sizing[0].get("scale")]
    pairs = [tuple(scale) for scale in scales if isinstance(scale, (list, tuple))]
    return pairs if keeps and len(pairs) == len(scales) else None
