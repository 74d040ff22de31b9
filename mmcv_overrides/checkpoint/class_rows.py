"""Class layers of a checkpoint whose classes differ from the model's: which rows still mean the same class.

A class layer has one output row per anchor and class, [A * C, ...] with C fastest (A = 1 for FCOS), or C + 1 with
the background last (R-CNN heads).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_CLASS_LAYER = re.compile(r"(^|[._])(cls|cls_score|cls_logits|fc_reg)\.(weight|bias)$")


_SOFTMAX = re.compile(r"(^|[._])fc_cls\.(weight|bias)$")  # one row more, for the background


def class_count(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], count: int) -> int | None:
    """Number of classes of a checkpoint, from the rows of its class layers; None if it is the model's, or unclear.

    Args:
        weights: tensors of the checkpoint by their name in the model.
        own: tensors of the model. count: its number of classes.
    """
    found = set()
    for name in weights.keys() & own.keys():
        theirs, ours = weights[name], own[name]
        background = int(bool(_SOFTMAX.search(name)))
        anchors, rest = divmod(len(ours), count + background) if ours.dim() else (0, 1)
        if not _CLASS_LAYER.search(name) or rest or not anchors or theirs.shape[1:] != ours.shape[1:]:
            continue
        if ".fc_reg." not in f".{name}":  # four rows a class: the layer beside it tells
            classes, over = divmod(len(theirs), anchors)
            found.add(0 if over else classes - background)
    return found.pop() if len(found) == 1 and not found & {0, count} else None


class ClassLayers:
    """Fits class layers to the model's classes; other layers are unchanged.

    Args:
        old, new: class names of the checkpoint and of the model, in order; empty if unknown.
    """

    def __init__(self, old: tuple[str, ...], new: tuple[str, ...]) -> None:
        self.old, self.new = old, new
        self.names: list[str] = []
        self._changes: dict[str, str] = {}

    def adapt(self, weights: dict[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, str]:
        """Replace or remove, in place, the tensors that do not fit the model.

        Args:
            weights: tensors of the checkpoint by their name in the model.
            own: tensors of the model.

        Returns:
            name -> one line of text for each removed tensor: it has another shape and is not a class layer.
        """
        mismatched: dict[str, str] = {}
        for name in [n for n in weights if n in own]:
            theirs, ours = weights[name], own[name]
            same = theirs.shape == ours.shape
            if _CLASS_LAYER.search(name) and theirs.shape[1:] == ours.shape[1:] and (not same or self._reordered()):
                self._adapt(name, weights, ours)
            elif not same:
                mismatched[name] = f"{name} is {list(theirs.shape)} in the checkpoint, {list(ours.shape)} in the model"
                del weights[name]
        return mismatched

    def _reordered(self) -> bool:
        """Whether the number of classes is the same but some have another index: rows would be mixed up."""
        return len(self.old) == len(self.new) and self.old != self.new and bool(set(self.old) & set(self.new))

    def _adapt(self, name: str, weights: dict[str, Tensor], ours: Tensor) -> None:
        rows = self._rows(len(weights[name]), len(ours)) if weights[name].dim() else []
        fitted = ours.detach().clone()
        for new, old in rows:
            fitted[new] = weights[name][old].to(fitted)
        self.names.append(name)
        layer, sizes = name.rsplit(".", 1)[0], (len(weights[name]), len(ours))
        size = "{}->{}".format(
            *((len(self.old), len(self.new)) if self.old and self.new and len(self.old) != len(self.new) else sizes)
        )
        shared = len(set(self.old) & set(self.new)) if rows else 0
        kept = f" ({shared} of {len(self.new)} classes kept by name)" if shared else ""
        self._changes[layer] = f"reinitialised {layer} {size}{kept}"
        weights[name] = fitted

    def _rows(self, old_rows: int, new_rows: int) -> list[tuple[int, int]]:
        """(row of the model, row of the checkpoint) for every class that both have, and the background."""
        if not self.old or not self.new:
            return []
        for background in (0, 1):
            old_width, new_width = len(self.old) + background, len(self.new) + background
            anchors = new_rows // new_width
            if anchors and (anchors * old_width, anchors * new_width) == (old_rows, new_rows):
                pairs = [(self.new.index(c), self.old.index(c)) for c in self.new if c in self.old]
                pairs += [(len(self.new), len(self.old))] if background and pairs else []
                return [(a * new_width + n, a * old_width + o) for a in range(anchors) for n, o in pairs]
        return []

    def notes(self) -> tuple[str, ...]:
        """One line for each reinitialised layer."""
        return tuple(self._changes.values())
