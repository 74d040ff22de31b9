"""Reads the description of an exported model: the JSON file that the exporter writes beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fcos_train.deploy.parts.input_rule import InputRule
from fcos_train.report.artefacts import LISTED
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import write_json
from mmcv_overrides.printable import printable, require_names
from mmcv_overrides.regular_files import MAX_TEXT, read_json
from mmcv_overrides.run_folder import RECORD


def beside(model: str | Path) -> Path:
    """Find the description beside a model.

    Raises:
        UserError: there is none.
    """
    model = Path(model)
    places = [model.with_name(f"{model.name}.json"), model.with_suffix(".json")]
    for place in places:
        if place.is_file():
            return place
    raise UserError(
        f"{model} has no description beside it ({' or '.join(p.name for p in places)}); "
        "fcos-train export writes one with every model"
    )


def remember(description: Path, checkpoint: str | Path) -> None:
    """Note an export in ``exports.json`` beside its checkpoint, where the report of the run finds it.

    Nothing is written unless the folder holds a run, or if it cannot be written.
    """
    folder = Path(checkpoint).resolve().parent
    if not (folder / RECORD).is_file():
        return
    listed = folder / LISTED
    try:
        known = json.loads(listed.read_text(encoding="utf-8")) if listed.is_file() else []
        write_json(listed, list(dict.fromkeys([*known, str(description.absolute())])), indent=1)
    except (OSError, ValueError, TypeError, UserError):
        return


def read_description(path: str | Path) -> dict[str, Any]:
    """Read a whole description.

    Raises:
        UserError: absent, not JSON, or not written by the exporter.
    """
    content = read_json(path, "description", limit=MAX_TEXT)
    keys = ("classes", "input", "mean", "std", "bgr_to_rgb", "resize")
    lacking = [key for key in keys if not isinstance(content, dict) or key not in content]
    if lacking:
        raise UserError(f"{path} does not describe an exported model: it lacks {', '.join(lacking)}")
    if not isinstance(content["classes"], list):
        raise UserError(f"{path} does not describe an exported model: its classes are not a list")
    require_names(content["classes"], str(path))
    return content


def read_rule(path: str | Path) -> InputRule:
    """Read how the model's input is prepared: image at the top left, sides rounded, as in mmdet.

    Raises:
        UserError: the description is absent, or has values of wrong types.
    """
    content = read_description(path)
    try:
        return rule_of(content, Path(path).stem)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} does not describe an exported model: {printable(repr(error))}") from error


def rule_of(content: Mapping[str, Any], name: str = "export") -> InputRule:
    """How the input is prepared, from a description in memory; ``name`` is for messages."""
    height, width = content["input"]["example_shape"]
    inside = bool(content["input"].get("normalize_in_graph"))
    mean, std, fill = tuple(content["mean"]), tuple(content["std"]), None
    if inside:  # the graph takes BGR pixels and must turn the padding into 0
        fill = mean[::-1] if content["bgr_to_rgb"] else mean
        mean, std = (0.0,) * 3, (1.0,) * 3
    return InputRule(
        name=name,
        height=int(height),
        width=int(width),
        mean=mean,
        std=std,
        to_rgb=bool(content["bgr_to_rgb"]) and not inside,
        centred=False,
        half_up=True,
        # A model trained on stretched images is given stretched images.
        keep_ratio=bool(content["resize"].get("keep_ratio", True)),
        fill=fill,
        as_trained=True,
    )


def ends_in_maps(description: dict[str, Any]) -> bool:
    """Whether the outputs of the model are the maps of its head."""
    return all(output.get("kind") == "map" for output in description["outputs"])


def needs_finish(description: dict[str, Any]) -> bool:
    """Whether the model ends before the suppression."""
    return ends_in_maps(description) or description.get("end") == "decoded"


def read_classes(path: str | Path) -> tuple[str, ...]:
    """Read the class names, by label."""
    return tuple(read_description(path)["classes"])
