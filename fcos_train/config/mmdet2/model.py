"""The model of an mmdet 2.x configuration, as mmdet 3.x builds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fcos_train.config.mmdet2.pipeline import Pixels

Part = dict[str, Any]
Say = Callable[[str], None]
# Arguments that 2.x renamed itself; 3.x knows the new name only. type (or "" for any) -> old -> new.
RENAMED = {
    "": {"deformable_groups": "deform_groups", "iou_thr": "iou_threshold"},
    "RoIAlign": {"out_size": "output_size", "sample_num": "sampling_ratio"},
    "RoIPool": {"out_size": "output_size"},
}
# `iou_thr` is also an argument of assigners and of metrics; it is an old name in these parts alone.
NMS = ("nms", "soft_nms")
DROPPED = {"background_label": "the number of classes"}  # of heads up to mmdet 2.2
SIZE_DIVISOR = 32  # of YOLOX's random_size_range


def modern_model(model: Part, train_cfg: Part | None, test_cfg: Part | None, pixels: Pixels, say: Say) -> Part:
    """The model of a 2.x configuration for 3.x.

    Args:
        model: plain values; it is changed.
        train_cfg, test_cfg: those of the top level, where mmdet before 2.7 had them.
        pixels: how the pipelines of the configuration normalise and pad.
        say: takes a line for each change.
    """
    for name, settings in (("train_cfg", train_cfg), ("test_cfg", test_cfg)):
        if settings is not None and model.get(name) is None:
            model[name] = settings
            say(f"{name} -> model.{name}")
    _pretrained(model, say)
    _modernise(model, "model", say)
    for path, part in _proposal_settings(model):
        _proposals(part, path, say)
    if "data_preprocessor" not in model:
        model["data_preprocessor"] = pixels.preprocessor()
        say(f"{pixels.source} -> model.data_preprocessor ({pixels.words()})")
    _random_sizes(model, say)
    return model


def _pretrained(model: Part, say: Say) -> None:
    """``pretrained`` of the detector belongs to its backbone; 3.x initialises by ``init_cfg``."""
    if "pretrained" in model:
        source, backbone = model.pop("pretrained"), model.get("backbone")
        if source is not None and isinstance(backbone, dict) and backbone.get("init_cfg") is None:
            backbone["init_cfg"] = {"type": "Pretrained", "checkpoint": source}
        say("model.pretrained -> model.backbone.init_cfg")


def _modernise(node: Any, path: str, say: Say) -> None:
    """Rename the arguments of every part below ``node``."""
    if isinstance(node, (list, tuple)):
        for index, part in enumerate(node):
            _modernise(part, f"{path}[{index}]", say)
    if not isinstance(node, dict):
        return
    kind = str(node.get("type", ""))
    for old, new in {**RENAMED[""], **RENAMED.get(kind, {})}.items():
        if old in node and (old != "iou_thr" or kind in NMS):
            value = node.pop(old)
            node.setdefault(new, value)
            say(f"{path}.{old} -> {new}")
    if "extra_convs_on_inputs" in node:
        _extra_convs(node, path, say)
    if path.endswith(".dcn"):
        _deformable(node, path, say)
    if kind and "pretrained" in node and path != "model":
        source = node.pop("pretrained")
        if source is not None:
            node.setdefault("init_cfg", {"type": "Pretrained", "checkpoint": source})
        say(f"{path}.pretrained -> init_cfg")
    for key in DROPPED.keys() & node.keys():
        say(f"{path}.{key}={node.pop(key)} -> nothing: it is {DROPPED[key]} in mmdet 3.x")
    for key, part in list(node.items()):
        _modernise(part, f"{path}.{key}", say)


def _extra_convs(neck: Part, path: str, say: Say) -> None:
    """FPN: from which map P6 and P7 are made. A text in ``add_extra_convs`` decides alone, in 2.x too."""
    on_inputs = neck.pop("extra_convs_on_inputs")
    if neck.get("add_extra_convs") is True:
        neck["add_extra_convs"] = "on_input" if on_inputs else "on_output"
    say(f"{path}.extra_convs_on_inputs={on_inputs} -> add_extra_convs={neck.get('add_extra_convs', False)!r}")


def _deformable(dcn: Part, path: str, say: Say) -> None:
    """mmdet 1.x and the first 2.x chose the kind of deformable convolution by ``modulated``."""
    if "modulated" in dcn:
        modulated = dcn.pop("modulated")
        dcn.setdefault("type", "DCNv2" if modulated else "DCN")
        say(f"{path}.modulated={modulated} -> type={dcn['type']!r}")


def _proposal_settings(model: Part) -> list[tuple[str, Part]]:
    """Settings of how the RPN selects proposals, with their places."""
    places = (("train_cfg", "rpn_proposal"), ("test_cfg", "rpn"))
    found = ((f"model.{cfg}.{name}", (model.get(cfg) or {}).get(name)) for cfg, name in places)
    return [(path, part) for path, part in found if isinstance(part, dict)]


def _proposals(part: Part, path: str, say: Say) -> None:
    """Before 2.8: ``nms_thr`` instead of ``nms``, ``nms_post`` and ``max_num`` instead of ``max_per_img``."""
    if "nms_thr" in part:
        threshold = part.pop("nms_thr")
        part.setdefault("nms", {"type": "nms", "iou_threshold": threshold})
        say(f"{path}.nms_thr -> nms.iou_threshold")
    counts = [part.pop(key) for key in ("nms_post", "max_num") if key in part]
    if counts:
        part.setdefault("max_per_img", min(counts))
        say(f"{path}.nms_post, max_num -> max_per_img={part['max_per_img']}")
    if "nms_across_levels" in part:
        across = part.pop("nms_across_levels")
        say(
            f"{path}.nms_across_levels={across} -> nothing: "
            + ("mmdet 3.x suppresses within a level, so proposals differ" if across else "mmdet 3.x does the same")
        )


def _random_sizes(model: Part, say: Say) -> None:
    """YOLOX: the detector drew the training size; in 3.x its preprocessor does."""
    if not {"input_size", "random_size_range", "random_size_interval"} & model.keys():
        return
    base = model.pop("input_size", (640, 640))
    low, high = model.pop("random_size_range", (15, 25))
    interval = model.pop("random_size_interval", 10)
    model["data_preprocessor"]["batch_augments"] = [
        {
            "type": "BatchSyncRandomResize",
            "random_size_range": (low * SIZE_DIVISOR, high * SIZE_DIVISOR),
            "size_divisor": SIZE_DIVISOR,
            "interval": interval,
        }
    ]
    say(f"model.input_size={tuple(base)}, random_size_range -> model.data_preprocessor.batch_augments")
