"""What a training starts from: a file, an address, weights by name, or the COCO weights nearest to its config.

``coco`` means the COCO weights of mmdet's index whose model is the same: the same type of detector, the same backbone,
and a neck of the same type and width. Of several, those with the fewest differences in neck and head are the nearest,
and of those the ones with the highest box AP.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.config import Config

from fcos_train.config.load import find_config, load_config
from fcos_train.weights import COCO, Weights, all_weights, fetch, named, weights_fault
from fcos_train.weights.index import looks_like_file
from mmcv_overrides.errors import UserError

# What may differ between two models of the same layers: how they are trained, their classes, and what they start from.
FREE = re.compile(
    r"(^|\.)(init_cfg|pretrained|with_cp|num_classes|train_cfg|test_cfg|frozen_stages|norm_eval|requires_grad|_scope_)(\.|$)"
    r"|(^|\.)loss_\w+(\.|$)"
)
PLAIN_BN = ("SyncBN", "MMSyncBN")  # BatchNorm in other processes: the same tensors
SHOWN, CANDIDATES = 4, 8
Model = dict[str, str]  # dotted key -> value as text


def start_weights(cfg: Config, given: str | None, mode: str, say: Callable[[str], None]) -> str | None:
    """The file or address that a training starts from.

    Args:
        cfg: as it was read, before the model is changed.
        given: by the user; None: the config's ``load_from``.
        mode: ``--pretrained``: with ``auto`` and ``none`` a training goes on without the weights that its config names.
        say: prints a line.

    Raises:
        UserError: no weights have this name or fit the config, or they are not available.
    """
    wanted = given or cfg.get("load_from")
    if not isinstance(wanted, str) or "://" in wanted or Path(wanted).is_file() or _is_missing_file(wanted):
        return wanted
    if given is None and mode == "none":
        say(f"--pretrained none: load_from={wanted} of the config is not used; training from random weights")
        return None
    try:
        if wanted == COCO:
            chosen, why = nearest(cfg)
            say(f"{COCO}: {chosen.name} ({why})")
        else:
            chosen = named(wanted)
        return str(fetch(chosen, say))
    except UserError as error:
        where = "--load-from" if given else "load_from of the config"
        if given is None and mode == "auto":
            say(f"WARNING: training from random weights: {where} {wanted} not used ({error})")
            return None
        other = "" if given else "; --pretrained none trains from random weights"
        raise UserError(f"{where} {wanted}: {error}{other}") from error


def _is_missing_file(wanted: str) -> bool:
    """A file that does not exist, which the runner reports; the name of a file of the index is a name."""
    return looks_like_file(wanted) and weights_fault(wanted) is not None


def nearest(cfg: Config) -> tuple[Weights, str]:
    """The COCO weights for a config, and why these.

    Raises:
        UserError: there are none of the same architecture; the message has those of the same detector.
    """
    own = _described(cfg.model)
    same = list(_of_detector(own.get("type", "")))
    models = [(one, _model_of(one.config)) for one in same if _may_fit(one, own)]
    fitting = [(one, _differences(own, other)) for one, other in models if _core(own) == _core(other)]
    if not fitting:
        raise UserError(_refusal(own, same))
    chosen, differing = min(fitting, key=lambda pair: (len(pair[1]), -(pair[0].box_ap or 0)))
    ap = f"box AP {chosen.box_ap} on COCO" if chosen.box_ap else "trained on COCO"
    if not differing:
        return chosen, f"{ap}; the same model as the config's"
    more = f" and {len(differing) - SHOWN} more" if len(differing) > SHOWN else ""
    return chosen, f"{ap}; nearest of {len(fitting)}, it differs in {', '.join(differing[:SHOWN])}{more}"


def _of_detector(kind: str) -> Iterator[Weights]:
    """The COCO weights of a type of detector, by the text of their configs: to read all configs takes a minute."""
    used = re.compile(rf"type\s*=\s*['\"](mmdet\.)?{re.escape(kind)}['\"]")
    seen: dict[Path, str] = {}
    for one in all_weights():
        if one.data != "COCO" or one.box_ap is None or not one.config:
            continue
        if any(used.search(text) for text in _texts(find_config(one.config), seen)):
            yield one


def _may_fit(one: Weights, own: Model) -> bool:
    """Whether the name has the depth of the backbone, where mmdet's names always have it."""
    letter = {"ResNet": "r", "ResNeXt": "x"}.get(own.get("backbone.type", ""))
    word = f"{letter}{own.get('backbone.depth')}"
    return letter is None or re.search(rf"(?<![a-z]){word}(?!\d)", one.config) is not None


@cache
def _model_of(config: str) -> Model:
    """The model of a config of mmdet; empty if it needs a package that is not installed."""
    try:
        return _described(load_config(config).model)
    except UserError:
        return {}


def _texts(path: Path, seen: dict[Path, str]) -> Iterator[str]:
    """The text of a config file and of the files that it is based on."""
    if path not in seen:
        seen[path] = path.read_text(encoding="utf-8") if path.is_file() else ""
    yield seen[path]
    for other in re.findall(r"['\"]([\w./+%-]+\.py)['\"]", seen[path]):
        base = (path.parent / other).resolve()
        if base != path and base.is_file():
            yield from _texts(base, seen)


def _core(model: Model) -> Model:
    """What must be the same: the detector, its backbone, type and width of its neck."""
    return {key: value for key, value in model.items() if key in ("type", "neck.type", "neck.out_channels")} | {
        key: value for key, value in model.items() if key.startswith("backbone.")
    }


def _differences(own: Model, other: Model) -> list[str]:
    """Keys of neck, heads and preprocessor with different values."""
    keys = {key for model in (own, other) for key in model if not key.startswith("backbone.")}
    return sorted(key for key in keys if own.get(key) != other.get(key))


def _described(model: Mapping[str, Any]) -> Model:
    """A model as dotted keys with values, also those that its classes take when a config leaves them out."""
    return {key: value for key, value in _flat(_complete(model), "") if not FREE.search(key)}


def _flat(value: Any, at: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{at}.{key}" if at else str(key))
    elif value is not None:
        name = _name(value) if at.endswith("type") else value
        yield at, "BN" if name in PLAIN_BN else repr(list(name) if isinstance(name, tuple) else name).strip("'")


def _complete(part: Any) -> Any:
    """A dict of the config with the defaults of its class, and so all dicts in it."""
    if not isinstance(part, Mapping):
        return part
    return {key: _complete(value) for key, value in {**_defaults(part.get("type")), **part}.items()}


def _defaults(kind: Any) -> dict[str, Any]:
    """The arguments of a class of mmdet, and of those that it inherits from, with their defaults."""
    from mmdet.registry import MODELS

    found: dict[str, Any] = {}
    cls = MODELS.get(kind) if isinstance(kind, str) else kind
    for owner in inspect.getmro(cls) if inspect.isclass(cls) else ():
        if owner.__module__.partition(".")[0] not in ("mmdet", "fcos_train") or "__init__" not in vars(owner):
            continue
        for name, parameter in inspect.signature(vars(owner)["__init__"]).parameters.items():
            if parameter.default not in (inspect.Parameter.empty, None):
                found.setdefault(name, parameter.default)
    return found


def _name(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind)).removeprefix("mmdet.")


def _refusal(own: Model, same: list[Weights]) -> str:
    """Why no weights fit, and which come near."""
    backbone = {key.removeprefix("backbone."): value for key, value in own.items() if key.startswith("backbone.")}
    shown = [f"{key} {backbone[key]}" for key in ("depth", "arch", "style", "base_channels") if key in backbone]
    what = f"{own.get('type')} with backbone {backbone.get('type')}{' (' + ', '.join(shown) + ')' if shown else ''}"
    if not same:
        return f"mmdet's index has no COCO weights of this detector ({what}); give a file"
    best = sorted(same, key=lambda one: -(one.box_ap or 0))
    config = "fcos/fcos_r50_fpn_finetune" if own.get("type") == "FCOS" else best[0].config
    return (
        f"mmdet's index has no COCO weights of this model ({what}). Of {own.get('type')} it has "
        f"{', '.join(one.name for one in best[:CANDIDATES])}{', ...' if len(best) > CANDIDATES else ''}: train a "
        f"config with one of their backbones, such as {config}, or give a file"
    )
