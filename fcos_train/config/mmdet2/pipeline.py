"""The pipelines of an mmdet 2.x configuration: normalisation and padding move into the preprocessor of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmcv_overrides.errors import UserError

Step = dict[str, Any]
Say = Callable[[str], None]
# Steps that make tensors and choose what is kept: PackDetInputs does both.
PACKING = ("DefaultFormatBundle", "ImageToTensor", "Collect", "WrapFieldsToLists", "ToTensor", "Transpose")
PACKED_KEYS = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
FLIP_KEYS = ("flip", "flip_direction")
# Names of Collect's meta_keys. The preprocessor of 3.x writes pad_shape.
META_NAMES = {"filename": "img_path", "ori_filename": None, "img_norm_cfg": None, "pad_shape": None}
# Arguments that are (height, width) in 2.x and (width, height) in 3.x.
SWAPPED = {"Mosaic": "img_scale", "MixUp": "img_scale", "RandomAffine": "border", "Pad": "size"}
# Limits of boxes, in 3.x a matter of FilterAnnotations.
BOX_LIMITS = ("min_bbox_size", "min_area_ratio", "max_aspect_ratio", "skip_filter")
UNTRANSLATED = ("LoadProposals", "SegRescale", "InstaBoost", "GenerateHeatmap", "VideoCollect")


@dataclass(frozen=True)
class Pixels:
    """How 2.x prepares pixels before the model sees them.

    Attributes:
        mean, std: per channel, in the order after ``to_rgb``; None: not normalised.
        to_rgb: BGR images become RGB first.
        divisor: sides are padded to multiples of it, in px.
        pad_value: of padded pixels, after the normalisation.
        masks: training has masks, which are padded like the image.
        source: where this is written in the configuration, for messages.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    to_rgb: bool = False
    divisor: int = 1
    pad_value: float = 0
    masks: bool = False
    source: str = "no normalisation"

    def preprocessor(self) -> dict[str, Any]:
        """The ``data_preprocessor`` of mmdet 3.x that does the same."""
        found: dict[str, Any] = {"type": "DetDataPreprocessor", "pad_size_divisor": self.divisor}
        if self.mean is not None and self.std is not None:
            found.update(mean=list(self.mean), std=list(self.std), bgr_to_rgb=self.to_rgb)
        if self.pad_value:
            found["pad_value"] = self.pad_value
        if self.masks:
            found["pad_mask"] = True
        return found

    def words(self) -> str:
        """For a message: ``RGB, mean 123.675 116.28 103.53, std 58.395 57.12 57.375, multiples of 32 px``."""
        if self.mean is None or self.std is None:
            return f"as they are, multiples of {self.divisor} px"
        mean, std = (" ".join(f"{number:g}" for number in numbers) for numbers in (self.mean, self.std))
        return f"{'RGB' if self.to_rgb else 'BGR'}, mean {mean}, std {std}, multiples of {self.divisor} px"


def pixels_of(pipelines: Sequence[Sequence[Step]], fallback: Mapping[str, Any] | None) -> Pixels:
    """Normalisation and padding of pipelines; the first one that normalises decides.

    Args:
        pipelines: of 2.x, the one of the test first.
        fallback: ``img_norm_cfg`` of the top level, for a configuration without pipelines.
    """
    flat = [list(_flat(steps)) for steps in pipelines]
    normal = next((step for steps in flat for step in steps if step.get("type") == "Normalize"), None)
    norm, source = (normal, "Normalize of the pipelines") if normal else (fallback, "img_norm_cfg")
    pads = [step for steps in flat for step in steps if step.get("type") == "Pad" and step.get("size_divisor")]
    value = (pads[0].get("pad_val", 0) if pads else 0) or 0
    value = value.get("img", 0) if isinstance(value, dict) else value
    value = value[0] if isinstance(value, (list, tuple)) else value
    masks = any(step.get("with_mask") for steps in flat for step in steps)
    divisor = int(pads[0]["size_divisor"]) if pads else (1 if flat else 32)
    if not norm:
        return Pixels(divisor=divisor, pad_value=value, masks=masks)
    mean, std = (tuple(float(number) for number in norm[key]) for key in ("mean", "std"))
    return Pixels(mean, std, bool(norm.get("to_rgb", True)), divisor, value, masks, source)


def modern_pipeline(steps: Sequence[Step], say: Say, where: str) -> list[Step]:
    """The steps for mmdet 3.x.

    Args:
        steps: of 2.x, plain values. say: takes lines about what is left out. where: its place, for messages.

    Raises:
        UserError: a step that has no counterpart.
    """
    found: list[Step] = []
    for step in _flat(steps, say):
        found += _modern_step(dict(step), say, where)
    if found and not any(step["type"] == "PackDetInputs" for step in found):
        return found  # of an inner data set, or of one whose images are mixed later
    return _packed_once(found)


def _flat(steps: Sequence[Step], say: Say | None = None) -> list[Step]:
    """The steps with those inside MultiScaleFlipAug in its place."""
    flat: list[Step] = []
    for step in steps:
        if step.get("type") != "MultiScaleFlipAug":
            flat.append(step)
            continue
        scale = step.get("img_scale")
        scales = scale if isinstance(scale, list) and scale and _is_size(scale[0]) else [scale]
        if say and (step.get("flip") or len(scales) > 1):
            say("MultiScaleFlipAug: test-time augmentation -> one scale without flip (mmdet 3.x: tta_model)")
        size = {"img_scale": scales[0]} if scales[0] else {"scale_factor": step.get("scale_factor")}
        inner = (part for part in step.get("transforms", ()) if part.get("type") != "RandomFlip")
        flat += [{**part, **size} if part.get("type") == "Resize" else part for part in inner]
    return flat


def _modern_step(step: Step, say: Say, where: str) -> list[Step]:
    kind = str(step.get("type", "")).removeprefix("mmdet.")
    if kind in UNTRANSLATED:
        raise UserError(f"{where}: the step {kind} of mmdet 2.x has no counterpart here")
    if kind in PACKING:
        return [_packing(step)]
    if kind == "Normalize" or (kind == "Pad" and step.get("size_divisor")):
        return []  # the preprocessor of the model does it
    if kind == "LoadImageFromWebcam":
        step["type"] = "LoadImageFromFile"
    if isinstance(step.get("file_client_args"), dict):
        client = step.pop("file_client_args")
        if client.get("backend") != "disk":
            step["backend_args"] = client
    if kind == "Resize":
        return [_resize(step)]
    if kind == "RandomFlip":
        ratio = step.pop("flip_ratio", None)
        return [] if ratio is None and step.get("prob") is None else [{**step, "prob": step.get("prob", ratio)}]
    key = SWAPPED.get(kind)
    if kind == "RandomCrop" and step.get("crop_type", "absolute") != "absolute_range":
        key = "crop_size"
    if key and step.get(key) is not None:
        step[key] = tuple(reversed(tuple(step[key])))
    for limit in BOX_LIMITS:
        if kind in ("Mosaic", "MixUp", "RandomAffine") and limit in step:
            say(f"{kind}.{limit}={step.pop(limit)} -> nothing: boxes are filtered by FilterAnnotations")
    return [step]


def _packing(step: Step) -> Step:
    names = step.get("meta_keys")
    if names is None:
        return {"type": "PackDetInputs"}
    kept = [new for name in names if (new := META_NAMES.get(name, name)) is not None]
    return {"type": "PackDetInputs", "meta_keys": tuple(dict.fromkeys(("img_id", *kept)))}


def _packed_once(steps: list[Step]) -> list[Step]:
    """One packing step at the end, with the keys that Collect named, else those that the steps write."""
    packs = [step for step in steps if step["type"] == "PackDetInputs"]
    kept = [step for step in steps if step["type"] != "PackDetInputs"]
    flips = any(step["type"] == "RandomFlip" for step in kept)
    keys = next((step["meta_keys"] for step in packs if "meta_keys" in step), PACKED_KEYS + FLIP_KEYS * flips)
    return [*kept, {"type": "PackDetInputs", "meta_keys": keys}]


def _resize(step: Step) -> Step:
    """2.x's Resize draws one of several scales, or one between two; 3.x has a step for each."""
    scale, mode = step.pop("img_scale", None), step.pop("multiscale_mode", "range")
    ratios, factor = step.pop("ratio_range", None), step.pop("scale_factor", None)
    step.pop("override", None)
    kept = {"keep_ratio": step.pop("keep_ratio", True)}
    if "bbox_clip_border" in step:
        kept["clip_object_border"] = step.pop("bbox_clip_border")
    kept.update({key: value for key, value in step.items() if key != "type"})
    scales = [tuple(one) for one in scale] if isinstance(scale, list) and scale and _is_size(scale[0]) else []
    if not scales:
        size = None if scale is None else tuple(scale)
        if ratios is not None:
            return {"type": "RandomResize", "scale": size, "ratio_range": tuple(ratios), **kept}
        return {"type": "Resize", **({"scale": size} if size else {"scale_factor": factor}), **kept}
    if len(scales) == 1:
        return {"type": "Resize", "scale": scales[0], **kept}
    if mode == "value":
        return {"type": "RandomChoiceResize", "scales": scales, **kept}
    return {"type": "RandomResize", "scale": scales, **kept}


def _is_size(value: Any) -> bool:
    return isinstance(value, (list, tuple))
