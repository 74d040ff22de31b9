"""Checks what a configuration from a checkpoint, or one read with --safe-config, may build.

Even a configuration of plain values can run code when it is built: ``type='os.system'`` makes mmengine's registry
import and call that function, ``nms=dict(type='<expression>')`` reaches an ``eval`` in mmcv, and several model options
load further files by unpickling. Therefore an untrusted configuration may only name registered parts.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

from mmcv_overrides.checkpoint.embedded_config import INSIDE, WAY_OUT
from mmcv_overrides.errors import Advice, UserError

PACKAGES = ("mmcv_overrides", "fcos_train", "mmdet", "mmcv", "mmengine")
# They load, or download, weights that the checkpoint then replaces.
DROPPED = ("init_cfg", "pretrained", "teacher_ckpt")
# Options for which a model unpickles or executes another file.
LOADERS = re.compile(r".*(teacher_config|ckpt|checkpoint|_file)$")
# Keys whose value mmengine looks up in a registry.
NAMES = ("type", "constructor")
# Parts of a model that are chosen by a word of their class, not by a registered name: key of the dict -> words.
WORDS = {
    "adapt_cfg": ("dilation", "offset"),  # of StageCascadeRPNHead
    **dict.fromkeys(
        # of FPG
        (
            "same_down_trans",
            "same_up_trans",
            "across_lateral_trans",
            "across_down_trans",
            "across_up_trans",
            "across_skip_trans",
            "output_trans",
        ),
        ("conv", "identity", "interpolation_conv", "last_conv"),
    ),
}
# Outside the model: np.load of pickled objects (OpenImages Challenge).
UNPICKLED = ("hierarchy_file",)
# Paths and names, which may have any character; other text could reach an `eval` (for example in mmcv's RF-search).
TEXTS = (
    "ann_file",
    "checkpoint",
    "classes",
    "data_root",
    "img",
    "img_path",
    "load_from",
    "out_dir",
    "proposal_file",
    "seg",
    "sub_data_root",
    "work_dir",
)
IDENTIFIER = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def run_custom_imports(
    config: Any, where: str, trust: bool = False, what: str = INSIDE, way_out: Advice = WAY_OUT
) -> None:
    """Import the modules in ``custom_imports`` of the configuration.

    Args:
        config: the configuration.
        where: the file, for messages.
        trust: import modules of any package.
        what: what the configuration is in the file, for messages.
        way_out: what the user can do, for messages.

    Raises:
        UserError: a module outside the packages of this project and mmdet while ``trust`` is False, or one that cannot
            be imported.
    """
    settings = config.get("custom_imports") or {}
    wanted = (settings.get("imports") if isinstance(settings, dict) else settings) or []
    for name in [wanted] if isinstance(wanted, str) else wanted:
        if not trust and not _ours(str(name)):
            raise way_out.error(f"{where}: {what} imports '{name}', which is refused")
        try:
            importlib.import_module(name)
        except ImportError as error:
            if not settings.get("allow_failed_imports", False):
                raise UserError(f"{where}: {what} needs the module '{name}': {error}") from error


def without_pretrained(node: Any) -> Any:
    """A copy of a model configuration that loads or downloads no weights at construction."""
    if isinstance(node, dict):
        return type(node)({k: without_pretrained(v) for k, v in node.items() if k not in DROPPED})
    if isinstance(node, (list, tuple)):
        return type(node)(without_pretrained(item) for item in node)
    return node


def check_parts(node: Any, path: str, where: str, what: str = INSIDE, way_out: Advice = WAY_OUT) -> None:
    """Refuse a model or pipeline configuration that names anything but registered parts.

    Args:
        node: the configuration to build.
        path: its position in the whole configuration, for messages (``model``).
        where: the file, for messages.
        what: what the configuration is in the file, for messages.
        way_out: what the user can do, for messages.

    Raises:
        UserError: the message names the key and its value.
    """
    known = _known_parts()
    for place, key, value in _leaves(node, path):
        if isinstance(value, str) and key not in (*NAMES, "_scope_"):
            fine = not (LOADERS.fullmatch(str(key)) or _is_code(value) or "://" in value)
        else:
            fine = _is_fine(key, value, known) or _is_word(place, value)
        if not fine:
            raise way_out.error(_asks_for(place, value, where, what))


def check_config(config: Any, where: str, what: str, way_out: Advice) -> None:
    """Refuse a whole configuration (data, hooks, optimizer, model) that names anything but registered parts.

    It may name weights to initialise the model from, which are read without unpickling. Arguments as in
    :func:`check_parts`.

    Raises:
        UserError: the message names the key and its value.
    """
    from mmengine.registry import WEIGHT_INITIALIZERS

    check_parts(without_pretrained(config.get("model") or {}), "model", where, what, way_out)
    known = _known_parts(everything=True)
    initialisers = {name: {part} for name, part in WEIGHT_INITIALIZERS.module_dict.items()}
    for place, key, value in _leaves(config, ""):
        names = initialisers if ".init_cfg" in place else known
        scope = key in ("_scope_", "default_scope")
        fine = _is_fine("_scope_" if scope else key, value, names) or _is_word(place, value)
        code = isinstance(value, str) and key not in TEXTS and _is_code(value)
        if not fine or code or (key in UNPICKLED and value is not None):
            raise way_out.error(_asks_for(place.lstrip("."), value, where, what))


def _is_fine(key: object, value: object, known: dict[str, set]) -> bool:
    if isinstance(value, str):
        return _is_part(value, known) if key in NAMES else key != "_scope_" or value in PACKAGES
    return value is None or isinstance(value, (bool, int, float, complex, bytes))


def _is_word(place: str, value: object) -> bool:
    """Whether a `type` is a word of the class that has the dict: it is looked up nowhere."""
    keys = re.findall(r"[A-Za-z_]\w*", place)
    return keys[-1:] == ["type"] and len(keys) > 1 and value in WORDS.get(keys[-2], ())


def _is_code(text: str) -> bool:
    """Whether an `eval` of the text could call a function."""
    return "(" in text or "__" in text


def _asks_for(place: str, value: object, where: str, what: str) -> str:
    return (
        f"{where}: {what} asks for {place}={value!r}, which is not a part of mmdet or of this project; it was not built"
    )


def _leaves(node: Any, path: str, key: object = None) -> Iterator[tuple[str, object, object]]:
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _leaves(value, f"{path}.{name}", name)
    elif isinstance(node, (list, tuple, set)):
        for index, value in enumerate(node):
            yield from _leaves(value, f"{path}[{index}]", key)
    else:
        yield path, key, node


def _ours(name: str) -> bool:
    return name.split(".")[0] in PACKAGES and IDENTIFIER.fullmatch(name) is not None


def _known_parts(everything: bool = False) -> dict[str, set]:
    """Registered classes by name: models, their helpers and pipeline steps, and the operators of mmcv.

    Args:
        everything: also the parts of a training: data sets, hooks, loops, optimizers, metrics, functions.
    """
    import mmcv.ops
    from mmdet import registry as registries
    from mmengine.registry import FUNCTIONS

    names = ["MODELS", "TASK_UTILS", "TRANSFORMS"]
    if everything:
        names += ["DATASETS", "DATA_SAMPLERS", "EVALUATOR", "HOOKS", "LOG_PROCESSORS", "LOOPS", "METRICS"]
        names += ["MODEL_WRAPPERS", "OPTIMIZERS", "OPTIM_WRAPPERS", "OPTIM_WRAPPER_CONSTRUCTORS", "PARAM_SCHEDULERS"]
        names += ["VISBACKENDS", "VISUALIZERS"]
    known: dict[str, set] = {}
    for registry in [getattr(registries, name) for name in names] + ([FUNCTIONS] if everything else []):
        registry.import_from_location()
        for level in (registry.root, *registry.root.children.values()):
            for name, part in level.module_dict.items():
                if inspect.isclass(part) or registry is FUNCTIONS:
                    known.setdefault(name, set()).add(part)
    for name, part in vars(mmcv.ops).items():  # RoI layers and kinds of NMS are looked up there by name
        if inspect.isclass(part) or inspect.isfunction(part):
            known.setdefault(name, set()).add(part)
    return known


def _is_part(name: str, known: dict[str, set]) -> bool:
    """``FCOS``, ``mmdet.FCOS``, or a full name such as ``mmdet.models.detectors.FCOS`` of a registered class."""
    if not IDENTIFIER.fullmatch(name):
        return False
    scope, _, rest = name.partition(".")
    if not rest:
        return name in known
    if scope not in PACKAGES:
        return False
    if "." not in rest:
        return rest in known
    from mmengine.utils import get_object_from_string

    parts = known.get(name.rsplit(".", 1)[1], set())
    return bool(parts) and get_object_from_string(name) in parts
