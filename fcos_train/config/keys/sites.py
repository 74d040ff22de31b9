"""Traverses a config and finds, for every dictionary in it, which keys are valid there.

`find_sites` returns one `Site` per dictionary and the `type=` names that no registry has. Whatever is not certain is
ignored: classes of packages that are not loaded, classes that keep their `**kwargs`, dictionaries with any keys such as
a model's `test_cfg`.
"""

import importlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from fcos_train.config.keys.signature import legal_kwargs, mentioned_names, signature_names
from fcos_train.config.keys.tables import (
    DATALOADER_HINTS,
    DEFAULT_HOOK_NAMES,
    ENV_KEYS,
    KINDS,
    META_KEYS,
    MODEL_CFG_NAMES,
    OPTIM_WRAPPER_HINTS,
    OUR_PACKAGES,
    PARAMWISE_KEYS,
    Kind,
)


@dataclass(frozen=True)
class Site:
    """One dictionary of the config.

    Attributes:
        path: dotted path, "" for the config itself.
        value: the dictionary.
        legal: the valid keys; None: any key.
        what: what takes them, for the message.
        near: names whose misspelling is a fault although any other key is valid (if `legal` is None).
        hints: wrong key -> right key, for names of mmdet 2.x.
        tolerated: names that the owner may remove from the dictionary: not a fault, but not suggested either.
    """

    path: str
    value: dict
    legal: frozenset[str] | None
    what: str
    near: frozenset[str] = frozenset()
    hints: dict[str, str] = field(default_factory=dict)
    tolerated: frozenset[str] = frozenset()


@dataclass(frozen=True)
class UnknownType:
    """A `type=` name that is in none of its registries; `known` are the names in them."""

    path: str
    name: str
    registry: str
    known: frozenset[str]


def find_sites(cfg: dict) -> tuple[list[Site], list[UnknownType]]:
    """Every dictionary of `cfg` (plain, see `Config.to_dict`) below the top level whose keys are known."""
    walk = _Walk(cfg.get("default_scope") or "mmdet")
    for key, visit in _SECTIONS.items():
        value = cfg.get(key)
        if value:
            visit(walk, value, key)
    return walk.sites, walk.unknown


def items(value: Any) -> Iterator[tuple[str, Any]]:
    """(key, child) of a dictionary, (index, child) of a list or tuple, nothing for anything else."""
    if isinstance(value, dict):
        yield from ((str(k), v) for k, v in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((str(i), v) for i, v in enumerate(value))


class _Walk:
    """The traversal of a config, with a method for each section of mmengine's runner."""

    def __init__(self, scope: str) -> None:
        self.sites: list[Site] = []
        self.unknown: list[UnknownType] = []
        # Types of other scopes are not checked.
        self.scope = scope if scope in ("mmdet", "mmengine") else None

    # -- one site -------------------------------------------------------------------------------------------
    def add(self, path: str, value: dict, legal: frozenset[str] | None, what: str, **more: Any) -> None:
        """Add a site; `more` are further attributes of it."""
        allowed = None if legal is None else legal | META_KEYS
        self.sites.append(Site(path, value, allowed, what, **more))

    # -- `type=` dictionaries -------------------------------------------------------------------------------
    def typed(self, value: Any, path: str, kind_name: str, owner: Any = None, default: str | None = None) -> None:
        """A `type=` dictionary, or nested lists and dictionaries with such dictionaries in them."""
        kind = KINDS[kind_name]
        if not isinstance(value, dict) or ("type" not in value and default is None):
            for key, child in items(value):
                self.child(child, path, key, kind_name, owner)
            return
        name = value.get("type", default)
        target = self.resolve(name, kind) if _in_scope(value) else None
        if target is None:
            self.note_unknown(value, path, name, kind)
            self.add(path, value, None, str(name))
            return
        legal = legal_kwargs(target)
        if legal is not None:
            legal |= kind.extra
        tolerated = mentioned_names(owner) if owner is not None else frozenset()
        self.add(path, value, legal, target.__name__, hints=kind.hints, tolerated=tolerated)
        if target.__module__.split(".")[0] in OUR_PACKAGES and target.__name__ != "Albu":
            for key, child in value.items():
                self.child(child, path, key, kind_name, target)

    def child(self, child: Any, path: str, key: str, kind_name: str, owner: Any) -> None:
        """A value below a dictionary of this kind."""
        if not isinstance(child, (dict, list, tuple)):
            return
        # An index keeps the kind of its list.
        kind = KINDS[kind_name].children
        below = kind_name if key.isdigit() else kind.get(key, kind.get("*"))
        if below is None:
            return
        if below == "model" and key in ("train_cfg", "test_cfg") and isinstance(child, dict):
            self.model_cfg(child, f"{path}.{key}")
        self.typed(child, f"{path}.{key}", below, owner)

    def model_cfg(self, value: dict, path: str) -> None:
        """A model's `train_cfg` or `test_cfg`."""
        self.add(path, value, None, path.rsplit(".", 1)[-1], near=MODEL_CFG_NAMES)
        for part in ("rpn", "rcnn", "rpn_proposal"):
            if isinstance(value.get(part), dict):
                self.add(f"{path}.{part}", value[part], None, part, near=MODEL_CFG_NAMES)

    def note_unknown(self, value: dict, path: str, name: Any, kind: Kind) -> None:
        """An unregistered type: a fault if the dictionary is certainly built by the registry."""
        certain = kind.certain or _is_component(path)
        if self.scope and certain and isinstance(name, str) and "." not in name and _in_scope(value):
            known = frozenset(n for r in self.registries(kind) for n in r)
            self.unknown.append(UnknownType(path, name, kind.registries[0], known))

    def resolve(self, name: Any, kind: Kind) -> Any:
        """The class or function of a `type=`; None if unknown or not the same in all registries."""
        if not isinstance(name, str):
            return name if callable(name) and hasattr(name, "__module__") else None
        if self.scope is None:
            return None
        scope, _, bare = name.rpartition(".")
        if scope not in ("", "mmdet", "mmengine"):
            return _import(name)
        found = {id(r[bare]): r[bare] for r in self.registries(kind) if bare in r}
        target = next(iter(found.values())) if len(found) == 1 else None
        usable = inspect.isclass(target) or inspect.isfunction(target)
        return target if usable else None

    def registries(self, kind: Kind) -> list[dict[str, Any]]:
        """Name -> class of each registry of the kind; mmdet's own entries have precedence over mmengine's."""
        module = importlib.import_module(f"{self.scope}.registry")
        root = importlib.import_module("mmengine.registry")  # mmdet has no FUNCTIONS of its own
        tables = []
        for name in kind.registries:
            registry = getattr(module, name, getattr(root, name, None))
            table: dict[str, Any] = {}
            while registry is not None:
                table = {**registry.module_dict, **table}
                registry = registry.parent
            tables.append(table)
        return tables

    # -- sections of mmengine's runner ----------------------------------------------------------------------
    def model(self, value: Any, path: str) -> None:
        """`model`, `data_preprocessor`, `tta_model`."""
        self.typed(value, path, "model")

    def optim_wrapper(self, value: Any, path: str) -> None:
        """`optim_wrapper` with one optimizer; several, or an object, are not checked."""
        if not isinstance(value, dict) or not isinstance(value.get("optimizer"), dict):
            return
        wrapper = self.resolve(value.get("type", "OptimWrapper"), Kind(("OPTIM_WRAPPERS",)))
        legal = None if wrapper is None else legal_kwargs(wrapper)
        if legal is not None:
            legal |= {"constructor", "paramwise_cfg", "optimizer"}
        self.add(path, value, legal, getattr(wrapper, "__name__", "OptimWrapper"), hints=OPTIM_WRAPPER_HINTS)
        self.typed(value["optimizer"], f"{path}.optimizer", "optimizer")
        if isinstance(value.get("clip_grad"), dict):
            clip = value["clip_grad"]
            self.add(f"{path}.clip_grad", clip, _clip_kwargs(clip), "gradient clipping")
        plain = value.get("constructor", "DefaultOptimWrapperConstructor") == "DefaultOptimWrapperConstructor"
        if plain and isinstance(value.get("paramwise_cfg"), dict):
            self.add(f"{path}.paramwise_cfg", value["paramwise_cfg"], PARAMWISE_KEYS, "paramwise_cfg")

    def dataloader(self, value: Any, path: str) -> None:
        """`train_dataloader`, `val_dataloader`, `test_dataloader`."""
        from torch.utils.data import DataLoader

        if not isinstance(value, dict):
            return
        legal = signature_names(DataLoader.__init__) | {"num_batch_per_epoch", "disable_subprocess_warning"}
        self.add(path, value, legal - {"type"}, "a data loader", hints=DATALOADER_HINTS)
        kinds = {
            "dataset": "dataset",
            "sampler": "sampler",
            "batch_sampler": "sampler",
            "collate_fn": "function",
            "worker_init_fn": "function",
        }
        for key, kind in kinds.items():
            if isinstance(value.get(key), dict) and "type" in value[key]:
                self.typed(value[key], f"{path}.{key}", kind)

    def train_loop(self, value: Any, path: str) -> None:
        """`train_cfg`."""
        by_epoch = not isinstance(value, dict) or value.get("by_epoch", True)
        self.loop(value, path, "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop")

    def val_loop(self, value: Any, path: str) -> None:
        """`val_cfg`."""
        self.loop(value, path, "ValLoop")

    def test_loop(self, value: Any, path: str) -> None:
        """`test_cfg`."""
        self.loop(value, path, "TestLoop")

    def loop(self, value: Any, path: str, default: str) -> None:
        """A loop whose type may be missing."""
        if isinstance(value, dict):
            self.typed(value, path, "loop", default=default)

    def default_hooks(self, value: Any, path: str) -> None:
        """`default_hooks`: hooks by name."""
        if not isinstance(value, dict):
            return
        self.add(path, value, None, "default_hooks", near=DEFAULT_HOOK_NAMES)
        for name, hook in value.items():
            if isinstance(hook, dict):
                self.typed(hook, f"{path}.{name}", "hook")

    def custom_hooks(self, value: Any, path: str) -> None:
        """`custom_hooks`: a list."""
        for index, hook in items(value):
            if isinstance(hook, dict):
                self.typed(hook, f"{path}.{index}", "hook")

    def schedulers(self, value: Any, path: str) -> None:
        """`param_scheduler`: one, or a list."""
        self.typed(value, path, "scheduler")

    def evaluator(self, value: Any, path: str) -> None:
        """`val_evaluator`, `test_evaluator`: an evaluator, a metric, or a list of metrics."""
        if isinstance(value, dict) and "metrics" in value:
            self.typed(value, path, "evaluator", default="Evaluator")
        else:
            self.typed(value, path, "metric")

    def env(self, value: Any, path: str) -> None:
        """`env_cfg`."""
        from mmengine.utils.dl_utils import set_multi_processing

        if not isinstance(value, dict):
            return
        self.add(path, value, ENV_KEYS, "env_cfg")
        if isinstance(value.get("mp_cfg"), dict):
            legal = signature_names(set_multi_processing) - {"distributed"}
            self.add(f"{path}.mp_cfg", value["mp_cfg"], legal, "mp_cfg")

    def randomness(self, value: Any, path: str) -> None:
        """`randomness`."""
        from mmengine.runner import Runner

        if isinstance(value, dict):
            self.add(path, value, signature_names(Runner.set_randomness), "randomness")

    def auto_scale_lr(self, value: Any, path: str) -> None:
        """`auto_scale_lr`."""
        if isinstance(value, dict):
            self.add(path, value, frozenset({"enable", "base_batch_size"}), "auto_scale_lr")


def _kind(name: str, default: str | None = None) -> Callable[[_Walk, Any, str], None]:
    return lambda walk, value, path: walk.typed(value, path, name, default=default)


_SECTIONS: dict[str, Callable[[_Walk, Any, str], None]] = {
    "model": _Walk.model,
    "data_preprocessor": _Walk.model,
    "tta_model": _Walk.model,
    "optim_wrapper": _Walk.optim_wrapper,
    "param_scheduler": _Walk.schedulers,
    "train_cfg": _Walk.train_loop,
    "val_cfg": _Walk.val_loop,
    "test_cfg": _Walk.test_loop,
    "train_dataloader": _Walk.dataloader,
    "val_dataloader": _Walk.dataloader,
    "test_dataloader": _Walk.dataloader,
    "val_evaluator": _Walk.evaluator,
    "test_evaluator": _Walk.evaluator,
    "default_hooks": _Walk.default_hooks,
    "custom_hooks": _Walk.custom_hooks,
    "env_cfg": _Walk.env,
    "randomness": _Walk.randomness,
    "auto_scale_lr": _Walk.auto_scale_lr,
    "log_processor": _kind("log_processor", "LogProcessor"),
    "visualizer": _kind("visualizer", "Visualizer"),
}


def _in_scope(value: dict) -> bool:
    """Whether a part is looked up in registries that are known here. Below a base ``mmdet::...`` every part says so."""
    return value.get("_scope_", "mmdet") in ("mmdet", "mmengine")


def _is_component(path: str) -> bool:
    """Whether mmdet always builds this part of a model by its registry."""
    key = path.rsplit(".", 1)[-1]
    names = ("model", "backbone", "neck", "data_preprocessor", "anchor_generator", "bbox_coder", "assigner")
    return key in names or key.endswith("_head") or key.startswith("loss_")


def _clip_kwargs(value: dict) -> frozenset[str]:
    from torch.nn import utils

    function = utils.clip_grad_value_ if value.get("type") == "value" else utils.clip_grad_norm_
    return signature_names(function) - {"parameters"}


def _import(name: str) -> Any:
    """The class or function of a full dotted name, as in a pure Python config; otherwise None."""
    parts = name.split(".")
    if parts[0] not in (*OUR_PACKAGES, "torch"):
        return None
    for cut in range(len(parts) - 1, 0, -1):
        try:
            target: Any = importlib.import_module(".".join(parts[:cut]))
            for attribute in parts[cut:]:
                target = getattr(target, attribute)
        except (ImportError, AttributeError):
            continue
        return target if inspect.isclass(target) or inspect.isfunction(target) else None
    return None
