"""The JSON beside an exported model: what the offline road must know of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fcos_train.deploy.ascend.rules import Rule
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable, require_names
from mmcv_overrides.regular_files import MAX_TEXT, read_json


def beside(model: str | Path) -> Path:
    """The description that the exporter wrote beside a model.

    Raises:
        UserError: there is none.
    """
    model = Path(model)
    places = [model.with_suffix(".json"), model.with_name(f"{model.name}.json")]
    for place in places:
        if place.is_file():
            return place
    raise UserError(
        f"{model} has no description beside it ({' or '.join(p.name for p in places)}); "
        "fcos-train export writes one with every model"
    )


def read(path: str | Path) -> dict[str, Any]:
    """The whole description.

    Raises:
        UserError: absent, not JSON, or not an exporter's.
    """
    content = read_json(path, "description", limit=MAX_TEXT)
    keys = ("classes", "input", "mean", "std", "bgr_to_rgb", "resize")
    lacking = [key for key in keys if not isinstance(content, dict) or key not in content]
    if lacking:
        raise UserError(f"{path} does not describe an exported model: it lacks {', '.join(lacking)}")
    if not isinstance(content["classes"], list):
        raise UserError(f"{path} does not describe an exported model: its classes are no list")
    require_names(content["classes"], str(path))
    return content


def read_rule(path: str | Path) -> Rule:
    """How the model wants its input prepared: image at the top left, sides rounded, as mmdet does it.

    Raises:
        UserError: the description is absent, or its values are not of the exporter's kinds.
    """
    content = read(path)
    try:
        return _rule(content, Path(path).stem)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} does not describe an exported model: {printable(repr(error))}") from error


def _rule(content: dict[str, Any], name: str) -> Rule:
    height, width = content["input"]["example_shape"]
    inside = bool(content["input"].get("normalize_in_graph"))
    mean, std, fill = tuple(content["mean"]), tuple(content["std"]), None
    if inside:  # the graph takes BGR pixels; what it makes of the padding must be 0
        fill = mean[::-1] if content["bgr_to_rgb"] else mean
        mean, std = (0.0,) * 3, (1.0,) * 3
    return Rule(
        name=name,
        height=int(height),
        width=int(width),
        mean=mean,
        std=std,
        to_rgb=bool(content["bgr_to_rgb"]) and not inside,
        centred=False,
        half_up=True,
        # A model that was trained on stretched images is given stretched ones.
        keep_ratio=bool(content["resize"].get("keep_ratio", True)),
        fill=fill,
        as_trained=True,
    )


def read_classes(path: str | Path) -> tuple[str, ...]:
    """Class names by label."""
    return tuple(read(path)["classes"])
