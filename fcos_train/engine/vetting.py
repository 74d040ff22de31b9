"""What a configuration from inside a checkpoint may build.

Even a configuration of plain values can run code when it is built: ``type='os.system'`` makes mmengine's registry
import and call that function, ``nms=dict(type='<expression>')`` reaches an ``eval`` in mmcv, and several model options
load further files by unpickling. So what comes from a stranger's file may only name registered parts.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator

from mmcv_overrides.checkpoint.embedded_config import WAY_OUT
from mmcv_overrides.errors import UserError

PACKAGES = ("mmcv_overrides", "fcos_train", "mmdet", "mmcv", "mmengine")
# Loads weights that the checkpoint replaces anyway: dropped, also so that nothing is downloaded.
DROPPED = ("init_cfg", "pretrained")
# Options that make a model read another file, by unpickling or by executing it.
LOADERS = re.compile(r".*(teacher_config|ckpt|checkpoint|_file)$")
IDENTIFIER = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def run_custom_imports(config, where: str, trust: bool = False) -> None:
    """Import the modules that ``custom_imports`` of the configuration names.

    Raises:
        UserError: a module outside the packages of this project and mmdet while ``trust`` is False, or one that
            cannot be imported.
    """
    wanted = (config.get("custom_imports") or {}).get("imports") or []
    for name in [wanted] if isinstance(wanted, str) else wanted:
        if not trust and not _ours(str(name)):
            raise UserError(f"{where}: the configuration in it imports '{name}', which is not imported. {WAY_OUT}")
        try:
            importlib.import_module(name)
        except ImportError as error:
            if not config["custom_imports"].get("allow_failed_imports", False):
                raise UserError(f"{where}: the configuration needs the module '{name}': {error}") from error


def without_pretrained(node):
    """A copy of a model configuration in which nothing loads or downloads weights at construction."""
    if isinstance(node, dict):
        return type(node)({k: without_pretrained(v) for k, v in node.items() if k not in DROPPED})
    if isinstance(node, (list, tuple)):
        return type(node)(without_pretrained(item) for item in node)
    return node


def check_parts(node, path: str, where: str) -> None:
    """Refuse a model or pipeline configuration that names anything but registered parts.

    Args:
        node: the configuration to be built.
        path: its place in the configuration, for messages (``model``).
        where: the checkpoint, for messages.

    Raises:
        UserError: names the offending key and value.
    """
    known = _known_parts()
    for place, key, value in _leaves(node, path):
        if key in ("type", "_scope_") and isinstance(value, str):
            fine = _is_part(value, known) if key == "type" else value in PACKAGES
        elif isinstance(value, str):
            fine = not (LOADERS.fullmatch(str(key)) or "(" in value or "://" in value or "__" in value)
        else:
            fine = value is None or isinstance(value, (bool, int, float, complex, bytes))
        if not fine:
            raise UserError(
                f"{where}: the configuration in it asks for {place}={value!r}, which is not a part of mmdet or of this "
                f"project; it was not built. {WAY_OUT}"
            )


def _leaves(node, path: str, key: object = None) -> Iterator[tuple[str, object, object]]:
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


def _known_parts() -> dict[str, set[type]]:
    """Registered classes by name: models, their helpers and pipeline steps, and the operators of mmcv."""
    import mmcv.ops
    from mmdet.registry import MODELS, TASK_UTILS, TRANSFORMS

    known: dict[str, set[type]] = {}
    for registry in (MODELS, TASK_UTILS, TRANSFORMS):
        registry.import_from_location()
        for level in (registry.root, *registry.root.children.values()):
            for name, part in level.module_dict.items():
                if inspect.isclass(part):
                    known.setdefault(name, set()).add(part)
    for name, part in vars(mmcv.ops).items():  # RoI layers and nms kinds are looked up there by name
        if inspect.isclass(part) or inspect.isfunction(part):
            known.setdefault(name, set()).add(part)
    return known


def _is_part(name: str, known: dict[str, set[type]]) -> bool:
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
