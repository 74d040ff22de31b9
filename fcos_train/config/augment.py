"""``--augment``: presets of random changes in place of those of a training pipeline.

A preset keeps how the config loads and resizes images, and its RandomFlip: the directions say what the objects allow.
Every preset leaves the size of an image as it is, so that batches keep the few shapes of the fixed-shape step
(:mod:`.batch_shapes`).

========  ============================================================================================================
none      no random change: no flip either, one size
light     flip, zoom by 0.8 to 1.25 with small shifts, changes of hue, saturation and brightness
strong    a mosaic of four images for every second one, MixUp for every tenth, a wider zoom and larger changes of
          colour; light in the last quarter of the epochs, so that the training ends on images like those of the test
========  ============================================================================================================
"""

from __future__ import annotations

import copy
from typing import Any

from mmengine.config import Config, ConfigDict

from fcos_train.config.batch_shapes import MIX
from fcos_train.config.load import leaf_datasets, walk
from mmcv_overrides.errors import UserError

MIN_BOX = (2, 2)  # px; what the affine transform leaves of an object at the border may be a line
LIGHT: list[dict[str, Any]] = [
    {"type": "CentredAffine", "scaling_ratio_range": (0.8, 1.25), "max_translate_ratio": 0.05},
    {"type": "FilterAnnotations", "min_gt_bbox_wh": MIN_BOX, "keep_empty": False},
    {"type": "YOLOXHSVRandomAug", "hue_delta": 5, "saturation_delta": 30, "value_delta": 30},
]
STRONG: list[dict[str, Any]] = [
    {"type": "CentredAffine", "scaling_ratio_range": (0.6, 1.5), "max_translate_ratio": 0.1},
    {"type": "FilterAnnotations", "min_gt_bbox_wh": MIN_BOX, "keep_empty": False},
    {"type": "YOLOXHSVRandomAug", "hue_delta": 8, "saturation_delta": 50, "value_delta": 50},
]
MIXING: list[dict[str, Any]] = [
    {"type": "SameSizeMosaic", "prob": 0.5},
    {"type": "SameSizeMixUp", "prob": 0.1},
]
PRESETS = {"none": [], "light": LIGHT, "strong": STRONG}
LAST = 4  # the last 1/LAST of the epochs are without mixing
FLIP = {"type": "RandomFlip", "prob": 0.5}
SIZING = {"Resize", "FixScaleResize", "RandomChoiceResize", "RandomResize"}
STAYS = {"LoadImageFromFile", "LoadImage", "LoadAnnotations", "Pad", "PackDetInputs"}
# What mmdet's and mmcv's transforms change at random.
GOES = {
    *("Albu", "AutoAugment", "AutoContrast", "Brightness", "CachedMixUp", "CachedMosaic", "CentredAffine", "Color"),
    *("ColorTransform", "Contrast", "CopyPaste", "Corrupt", "CutOut", "Equalize", "Expand", "FilterAnnotations"),
    *("GeomTransform", "Invert", "MinIoURandomCrop", "PhotoMetricDistortion", "Posterize", "RandAugment"),
    *("RandomAffine", "RandomCenterCropPad", "RandomCrop", "RandomErasing", "RandomShift", "Rotate", "Sharpness"),
    *("ShearX", "ShearY", "Solarize", "SolarizeAdd", "TranslateX", "TranslateY", "YOLOXHSVRandomAug"),
}
SWITCHES = {"PipelineSwitchHook", "YOLOXModeSwitchHook"}


def kind_of(step: dict[str, Any]) -> str:
    """Type of a part without its scope."""
    return str(step.get("type", "")).removeprefix("mmdet.")


def set_augmentation(cfg: Config, preset: str | None) -> list[str]:
    """Put a preset into the training pipeline. Returns lines for the log.

    Args:
        preset: ``none``, ``light`` or ``strong``; None leaves the pipeline as it is.

    Raises:
        UserError: the pipeline has steps that a preset can neither keep nor replace; masks; a training that counts
            iterations, for ``strong``.
    """
    if preset is None:
        return []
    leaves = leaf_datasets(cfg.train_dataloader.dataset)
    pipeline = _plain_pipeline(cfg, [leaf.get("pipeline") for leaf in leaves], preset)
    steps = [step for step in pipeline if kind_of(step) not in GOES | {"RandomFlip"}]
    end = next(index for index, step in enumerate(steps) if kind_of(step) in SIZING) + 1
    sized, packed = [_sizing(step, preset) for step in steps[:end]], steps[end:]
    flips = [] if preset == "none" else [s for s in pipeline if kind_of(s) == "RandomFlip"] or [ConfigDict(FLIP)]
    after = {name: [*flips, *_copied(changes), *packed] for name, changes in PRESETS.items()}
    notes = [f"augmentation {preset}: {', '.join(map(kind_of, [*sized, *after[preset]]))}"]
    replaced = GOES | {"RandomFlip"} if preset == "none" else GOES
    gone = [kind_of(step) for step in pipeline if kind_of(step) in replaced]
    if gone:
        notes.append(f"augmentation {preset} replaces {', '.join(gone)} of the config")
    if preset == "strong":
        notes.append(_mix(cfg, [*_copied(MIXING), *after["strong"]], after["light"]))
    for leaf in leaves:
        leaf["pipeline"] = _copied(sized if preset == "strong" else [*sized, *after[preset]])
    return notes


def _copied(steps: list[Any]) -> list[ConfigDict]:
    return [ConfigDict(copy.deepcopy(step)) for step in steps]


def _plain_pipeline(cfg: Config, pipelines: list[Any], preset: str) -> list[ConfigDict]:
    """The one training pipeline, if a preset can be put into it.

    Raises:
        UserError: see :func:`set_augmentation`.
    """
    mixed = [part for part in walk(cfg.train_dataloader.dataset) if part.get("type") == MIX]
    if mixed or any(kind_of(hook) in SWITCHES for hook in cfg.get("custom_hooks") or []):
        raise _refusal(preset, "the config mixes images or switches its pipeline itself")
    pipeline = list(pipelines[0] or [])
    if any(list(other or []) != pipeline for other in pipelines):
        raise _refusal(preset, "the data sets that the config combines have different pipelines")
    strange = [kind_of(s) for s in pipeline if kind_of(s) not in STAYS | SIZING | GOES | {"RandomFlip"}]
    if strange:
        raise _refusal(preset, f"it can neither keep nor replace {', '.join(strange)} of the training pipeline")
    if sum(kind_of(step) in SIZING for step in pipeline) != 1 or kind_of(pipeline[-1]) != "PackDetInputs":
        raise _refusal(
            preset, "the training pipeline needs exactly one step that resizes, and PackDetInputs at its end"
        )
    if preset != "none" and any(step.get("with_mask") or step.get("with_seg") for step in pipeline):
        raise _refusal(preset, "the config trains masks or stuff maps, and these changes are made for boxes")
    return pipeline


def _refusal(preset: str, reason: str) -> UserError:
    return UserError(f"--augment {preset}: {reason}; leave the flag out and change the pipeline in the config")


def _sizing(step: ConfigDict, preset: str) -> ConfigDict:
    """A step before or at the resizing: random factors go, and ``none`` has one size, the largest."""
    kind = kind_of(step)
    if kind == "RandomResize" or (kind == "RandomChoiceResize" and preset == "none"):
        scales = step.get("scales") or step.scale
        one = isinstance(scales[0], int)
        largest = scales if one else max(scales, key=lambda scale: scale[0] * scale[1])
        return ConfigDict(type="Resize", scale=tuple(largest), keep_ratio=step.get("keep_ratio", True))
    return step


def _mix(cfg: Config, mixing: list[ConfigDict], light: list[ConfigDict]) -> str:
    """Let the loader mix images, and end that for the last epochs. Returns the line for the log.

    Raises:
        UserError: the training counts iterations.
    """
    epochs = cfg.train_cfg.get("max_epochs")
    if not epochs or str(cfg.train_cfg.get("type", "")) == "IterBasedTrainLoop":
        raise UserError("--augment strong ends its mosaics by the epoch; this config counts iterations: use light")
    last = max(int(epochs) // LAST, 1)
    loader = cfg.train_dataloader
    inner = loader.dataset
    loader["dataset"] = ConfigDict(type=MIX, dataset=inner, pipeline=mixing)
    # MultiImageMixDataset goes through its pipeline step by step; the hook gives it the shorter one of the last epochs.
    switch = ConfigDict(type="PipelineSwitchHook", switch_epoch=int(epochs) - last, switch_pipeline=_copied(light))
    cfg["custom_hooks"] = [*(cfg.get("custom_hooks") or []), switch]
    return f"augmentation strong: light from epoch {int(epochs) - last + 1} on, of {epochs}"
