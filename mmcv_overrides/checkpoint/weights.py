"""Loads the weights of a checkpoint into a model and reports what matched."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from mmcv_overrides.checkpoint.adelaidet import is_adelaidet, mmdet_names
from mmcv_overrides.checkpoint.class_rows import ClassLayers
from mmcv_overrides.checkpoint.torchvision_names import is_torchvision, mmdet_names_of_torchvision
from mmcv_overrides.errors import UserError
from mmcv_overrides.printable import printable

_PREFIXES = ("module.", "_orig_mod.", "model.")  # DDP, torch.compile, wrappers of other trainers
# mmdet 1.x, 2.x -> 3.x. What mmdet's layers rename themselves (deformable convolution, rpn_head) is left to them.
_RENAMES = ((re.compile(r"(^|\.)fcos_(cls|reg|centerness)\."), r"\1conv_\2."),)
_MIN_SHARE = 0.5


class StateDict(OrderedDict[str, Any]):
    """Tensors by name with ``_metadata``, the versions of the layers, as ``nn.Module.state_dict`` returns them."""

    _metadata: Mapping | None = None


@dataclass(frozen=True)
class MatchReport:
    """Result of :func:`load_weights`. All but ``total`` and ``notes`` are names of tensors of the model.

    Attributes:
        total: number of tensors of the model that could be loaded.
        matched: loaded unchanged.
        missing: not in the checkpoint; the model keeps its own.
        unexpected: only in the checkpoint (names of the checkpoint).
        mismatched: of another shape and not class layers; the model keeps its own.
        reinitialised: class layers of other classes; the model's own, except rows of classes of the same name.
        notes: one line for each reinitialised layer or mismatched tensor.
    """

    total: int
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]
    reinitialised: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether every tensor of model and checkpoint matched."""
        return len(self.matched) == self.total and not self.unexpected

    def summary(self) -> str:
        """One line: ``296/298 tensors; reinitialised bbox_head.conv_cls 80->5; missing: none; unexpected: none``."""
        parts = [f"{len(self.matched)}/{self.total} tensors", *self.notes]
        line = "; ".join([*parts, f"missing: {_some(self.missing)}", f"unexpected: {_some(self.unexpected)}"])
        return printable(line)  # names from a file


def _some(names: tuple[str, ...], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "none"


def load_weights(
    model: nn.Module, checkpoint: Mapping, log: Any = None, classes: tuple[str, ...] | None = None
) -> MatchReport:
    """Load the weights of a checkpoint, also of mmdet 1.x and 2.x and of other FCOS, by name and shape.

    A class layer of another size keeps the model's own initialisation, except rows of classes that both have.

    Args:
        model: changed in place; wrappers such as DDP are removed first.
        checkpoint: the result of :func:`load`: a dict with ``state_dict``, or a bare state dict.
        log: a logging.Logger for the summary line; default the current one of mmengine.
        classes: class names of the model, in order; default ``model.dataset_meta['classes']`` if present.

    Raises:
        UserError: less than half of the model's tensors are in the checkpoint; the model is then partly loaded.
    """
    model = bare(model)
    own = model.state_dict()
    weights = under_names_of(own, checkpoint)
    layers = ClassLayers(_class_names(checkpoint.get("meta")), tuple(classes or _model_classes(model)))
    mismatched = layers.adapt(weights, own)

    loaded = _Loading()
    loaded.load(model, weights, weights._metadata or {})
    report = _report(own, weights, loaded, mismatched, layers)
    print_log(
        f"weights: {report.summary()}",
        logger=log or "current",
        level=logging.INFO if report.complete else logging.WARNING,
    )
    if len(report.matched) < _MIN_SHARE * report.total:
        raise UserError(
            f"these weights are of another model: {report.summary()}. Give the config that the checkpoint was "
            "trained with (weights of a backbone alone belong in model.backbone.init_cfg)"
        )
    return report


def bare(model: nn.Module) -> nn.Module:
    """The model without wrappers such as DDP."""
    while is_model_wrapper(model):
        model = cast(nn.Module, model.module)
    return model


def state_dict_of(checkpoint: Mapping) -> Mapping:
    """The weights in a checkpoint: under ``state_dict`` (mmcv, apex) or another usual name, or the dict itself.

    Raises:
        UserError: it contains no tensors.
    """
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
            break
    if not any(isinstance(v, Tensor) for v in checkpoint.values()):
        names = ", ".join(map(str, list(checkpoint)[:8])) or "nothing"
        raise UserError(f"the checkpoint has no weights (no state_dict of tensors, but {names})")
    return checkpoint


def mmdet_names_of(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of AdelaiDet's, detectron2's and torchvision's FCOS under mmdet's names; others as they are."""
    if is_adelaidet(weights):
        return mmdet_names(weights)
    return mmdet_names_of_torchvision(weights) if is_torchvision(weights) else weights


def without_wrappers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors without the prefixes of DDP, torch.compile and wrappers of other trainers, where all of them have one."""
    while prefix := _common_prefix(weights, {}):
        weights = {k.removeprefix(prefix): v for k, v in weights.items()}
    return weights


def under_names_of(own: Mapping[str, Tensor], checkpoint: Mapping) -> StateDict:
    """The weights in a checkpoint under the names that a model uses.

    Args:
        own: tensors of the model. checkpoint: see :func:`state_dict_of`.
    """
    source = state_dict_of(checkpoint)
    weights: dict[str, Tensor] = {str(k): v for k, v in source.items() if isinstance(v, Tensor)}
    while prefix := _common_prefix(weights, own):
        weights = {k.removeprefix(prefix): v for k, v in weights.items()}
    weights = mmdet_names_of(weights)
    for pattern, new in _RENAMES:
        weights = {_better(k, pattern.sub(new, k), own): v for k, v in weights.items()}
    renamed = StateDict(weights)
    renamed._metadata = getattr(source, "_metadata", None)
    return renamed


def _common_prefix(weights: Mapping, own: Mapping) -> str | None:
    """A wrapper's prefix that all names of the checkpoint have and no name of the model."""
    fitting = (p for p in _PREFIXES if all(k.startswith(p) for k in weights) and not any(k.startswith(p) for k in own))
    return next(fitting, None)


def _better(old: str, new: str, own: Mapping) -> str:
    return new if old not in own and new in own else old


def _class_names(meta: Any) -> tuple[str, ...]:
    """Class names in the meta of a checkpoint: mmdet 3 ``dataset_meta.classes``, mmdet 2 ``CLASSES``."""
    meta = meta if isinstance(meta, Mapping) else {}
    dataset = meta.get("dataset_meta")
    dataset = dataset if isinstance(dataset, Mapping) else {}
    names = dataset.get("classes") or dataset.get("CLASSES") or meta.get("CLASSES") or ()
    return (names,) if isinstance(names, str) else tuple(map(str, names))


def _model_classes(model: nn.Module) -> tuple[str, ...]:
    return _class_names({"dataset_meta": getattr(model, "dataset_meta", None)})


class _Loading:
    """One traversal of a model through ``_load_from_state_dict`` of each layer, which renames old tensors."""

    def __init__(self) -> None:
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.errors: list[str] = []

    def load(self, module: nn.Module, weights: dict, metadata: Mapping, prefix: str = "") -> None:
        """Load the tensors of ``weights`` into ``module`` and the layers below it."""
        module = bare(module)
        found = (self.missing, self.unexpected, self.errors)
        module._load_from_state_dict(weights, prefix, metadata.get(prefix[:-1], {}), True, *found)
        for name, child in module._modules.items():
            if child is not None:
                inner = f"{prefix}{name}."
                self.load(child, {k: v for k, v in weights.items() if k.startswith(inner)}, metadata, inner)

    def misshapen(self) -> list[str]:
        """Names of the tensors whose shape a layer has refused."""
        return [m.group(1) for m in (re.search(r"size mismatch for ([^:\s]+)", e) for e in self.errors) if m]


def _report(
    own: Mapping, weights: Mapping, loaded: _Loading, mismatched: dict[str, str], layers: ClassLayers
) -> MatchReport:
    late = [name for name in loaded.misshapen() if name not in mismatched]
    mismatched = mismatched | {n: f"{n} is of another shape in the checkpoint" for n in late}
    own_names = {k for k, v in own.items() if isinstance(v, Tensor)}
    gone = set(loaded.missing) - set(mismatched) - set(layers.names)
    # Old weights and those of Caffe lack the step count of batch norm, which is not needed.
    own_names -= {k for k in own if k.endswith("num_batches_tracked") and k not in weights}
    bad = gone | set(mismatched) | set(layers.names)
    return MatchReport(
        total=len(own_names),
        matched=tuple(k for k in own if k in own_names and k not in bad),
        missing=tuple(k for k in own if k in own_names and k in gone),
        unexpected=tuple(dict.fromkeys(loaded.unexpected)),
        mismatched=tuple(mismatched),
        reinitialised=tuple(layers.names),
        notes=(*layers.notes(), *mismatched.values()),
    )
