"""The number of classes of the data set in every layer of a model that has one output per class."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.config import ConfigDict

from mmcv_overrides.errors import UserError

# Parts with a count of their own: a region proposal network knows one class, a semantic branch those of its maps.
OTHER_CLASSES = ("rpn_head", "semantic_head", "semantic_branch")
ONE_CLASS = ("MultiInstanceBBoxHead", "mmdet.MultiInstanceBBoxHead")
KEYS = ("num_classes", "num_things_classes")


def set_class_count(model: ConfigDict, count: int) -> list[str]:
    """Set the number of classes in a model's config. Returns lines for the log.

    Raises:
        UserError: weights of the classes that are not as many, and not all the same; more than the one class of
            CrowdDet.
    """
    notes = []
    for part in _parts(model):
        if part.get("type") in ONE_CLASS and count != 1:
            raise UserError(
                f"{part.type} (CrowdDet) tells one class from the background, and the data set has {count} classes: "
                "train on one of them (--classes NAME), or take another config"
            )
        for key in KEYS:
            old = part.get(key)
            if not isinstance(old, int) or old == count:
                continue
            notes.append(f"{key} {old} -> {count}: the classes of the data set")
            part[key] = count
            notes += _set_weights(part, old + (part.get("num_stuff_classes") or 0), count)
    return list(dict.fromkeys(notes))


def _parts(node: Any) -> Iterator[ConfigDict]:
    """Every dict below a model's config, but those that count other classes."""
    if isinstance(node, dict):
        yield node
        for key, value in node.items():
            if key not in OTHER_CLASSES:
                yield from _parts(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _parts(value)


def _set_weights(part: ConfigDict, old: int, count: int) -> list[str]:
    """``class_weight`` of the losses of a head: one number per class, and one for the background where it has one."""
    notes = []
    for name, loss in part.items():
        weights = loss.get("class_weight") if isinstance(loss, dict) else None
        if not isinstance(weights, (list, tuple)) or len(weights) not in (old, old + 1):
            continue
        of_classes, background = list(weights[:old]), list(weights[old:])
        if len(set(of_classes)) > 1:
            raise UserError(
                f"{name}.class_weight has {len(of_classes)} weights for {old} classes, but the data set has {count} "
                "classes: give one weight per class of the data set"
            )
        loss["class_weight"] = of_classes[:1] * count + background
        notes.append(f"{name}.class_weight: {of_classes[0]} for each of {count} classes")
    return notes
