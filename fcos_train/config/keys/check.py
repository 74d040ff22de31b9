"""Unknown config keys are errors with "did you mean"; mmdet 2.x keys are translated.

mmengine ignores most misspelt keys (with `grad_clip` instead of `clip_grad` it trains without clipping), so the keys
are checked before anything is built:

* `translate_v2` turns mmdet 2.x keys of `--cfg-options` into 3.x keys,
* `check_options` finds options that match nothing in the config, `merge_options` checks and merges,
* `check_keys` checks the final config.
"""

import difflib
import os
from collections.abc import Iterable, Iterator
from typing import Any

from fcos_train.config.keys.sites import Site, UnknownType, find_sites, items
from fcos_train.config.keys.tables import TOP_LEVEL, USUAL_VARIABLES
from fcos_train.config.keys.v2 import SPECIAL_KEYS, V2_TOP_LEVEL, reject_v2_file, translate_v2
from fcos_train.start import start
from mmcv_overrides.errors import UserError

__all__ = ["SPECIAL_KEYS", "check_keys", "check_options", "merge_options", "reject_v2_file", "translate_v2"]

NEAR = 0.85


def check_keys(cfg: Any) -> None:
    """Check every key of the final config whose validity is certain.

    Args:
        cfg: an `mmengine.Config` in mmdet 3.x style (or a plain dictionary).

    Raises:
        UserError: one or more keys or registry names are unknown; the message has the dotted path of each and the
            nearest valid name.
    """
    plain = _plain(cfg)
    reject_v2_file(plain)
    start()
    sites, unknown = find_sites(plain)
    faults = _top_level_faults(plain)
    faults += [_key_fault(site, key) for site in sites for key in site.value if _is_fault(site, str(key))]
    faults += [_type_fault(u) for u in unknown]
    if faults:
        raise UserError(_report("in the config", faults))


def check_options(cfg: Any, options: dict[str, Any]) -> list[str]:
    """Check that every `--cfg-options` key matches something in the config.

    Args:
        cfg: the config before the options are merged.
        options: dotted 3.x keys (after `translate_v2`).

    Returns:
        notices on options that only change a variable of the config file.

    Raises:
        UserError: one or more keys match nothing; the message has the nearest existing path for each.
    """
    plain = _plain(cfg)
    reject_v2_file(plain)
    start()
    retyped = _with_types(plain, options)
    sites = {site.path: site for site in find_sites(retyped)[0]}
    faults = [fault for key in options if (fault := _option_fault(retyped, sites, key))]
    if faults:
        raise UserError(_report("in --cfg-options", faults))
    return [_variable_notice(key) for key in options if key.split(".")[0] not in TOP_LEVEL]


def merge_options(cfg: Any, options: dict[str, Any]) -> list[str]:
    """`check_options`, then merge into `cfg` (an `mmengine.Config`), also below keys whose value is None.

    Returns and raises as `check_options`.
    """
    notices = check_options(cfg, options)
    for key in options:
        _open_parents(cfg, key.split("."))
    cfg.merge_from_dict(dict(options))
    return notices


# -- faults of a config ------------------------------------------------------------------------------------
def _is_fault(site: Site, key: str) -> bool:
    if site.legal is not None:
        return key not in site.legal and key not in site.tolerated
    return key not in site.near and _near_miss(key, site.near) is not None


def _key_fault(site: Site, key: str) -> str:
    path = f"{site.path}.{key}" if site.path else key
    return f"{path}: {site.what} takes no '{key}'; {_suggest(key, site.legal or site.near, site.hints)}"


def _type_fault(unknown: UnknownType) -> str:
    near = _closest(unknown.name, unknown.known)
    advice = f"did you mean '{near}'?" if near else "is its module in custom_imports?"
    return f"{unknown.path}.type: '{unknown.name}' is not registered ({unknown.registry}); {advice}"


def _top_level_faults(cfg: dict) -> list[str]:
    faults = []
    for key, value in cfg.items():
        if key in TOP_LEVEL or key in USUAL_VARIABLES or _is_variable_in_use(value, cfg):
            continue
        if key in V2_TOP_LEVEL and value not in (None, {}, []):
            faults.append(f"{key}: an mmdet 2.x key, which 3.x ignores; use {V2_TOP_LEVEL[key]}")
        elif near := _near_miss(key, TOP_LEVEL):
            faults.append(f"{key}: nothing reads this; did you mean '{near}'?")
    return faults


def _is_variable_in_use(value: Any, cfg: dict) -> bool:
    """Whether a section has this top-level value too: the config file then uses it as a variable."""
    if not isinstance(value, (dict, list, tuple)) or not value:
        return False
    return any(_contains(cfg[key], value) for key in TOP_LEVEL & cfg.keys())


def _contains(tree: Any, value: Any) -> bool:
    if type(tree) is type(value) and tree == value:
        return True
    return any(_contains(child, value) for _, child in items(tree))


# -- faults of options -------------------------------------------------------------------------------------
def _option_fault(cfg: dict, sites: dict[str, Site], option: str) -> str | None:
    """What is wrong with a dotted key; None if it may be set."""
    node: Any = cfg
    parts = option.split(".")
    for depth, part in enumerate(parts):
        path = ".".join(parts[:depth])
        children = dict(items(node))
        if part in children:
            node = children[part]
            continue
        if not path:
            return _top_option_fault(option, part, cfg)
        if isinstance(node, (list, tuple)):
            return f"{option}: {path} is a list of {len(node)}; give an index 0..{len(node) - 1}"
        if node is not None and not isinstance(node, dict):
            return f"{option}: {path} is {node!r}, which has no keys"
        return _missing_fault(option, path, part, children, sites.get(path))
    return None


def _top_option_fault(option: str, part: str, cfg: dict) -> str | None:
    if part in TOP_LEVEL:
        return None
    near = _closest(part, TOP_LEVEL | cfg.keys(), cutoff=NEAR if part == option else 0.6)
    near = near + option[len(part) :] if near else _path_of(part, cfg) if part == option else None
    advice = f"did you mean '{near}'?" if near else "see the config's own keys: " + ", ".join(sorted(cfg))
    return f"{option}: there is no '{part}'; {advice}"


def _path_of(name: str, cfg: dict) -> str | None:
    """The shortest dotted path whose last part is (nearly) this name: `train_cfg.max_epochs` for `max_epoch`."""
    sections = {key: value for key, value in cfg.items() if key in TOP_LEVEL}
    paths = sorted(_paths(sections, ""), key=lambda path: (path.count("."), path))
    near = _closest(name, {path.rsplit(".", 1)[-1] for path in paths}, cutoff=NEAR)
    return next((path for path in paths if near and path.rsplit(".", 1)[-1] == near), None)


def _paths(node: Any, prefix: str) -> Iterator[str]:
    for key, child in items(node):
        yield prefix + key
        yield from _paths(child, f"{prefix}{key}.")


def _missing_fault(option: str, path: str, part: str, children: dict, site: Site | None) -> str | None:
    """`path` exists and has no `part`; None if its owner takes that key, or any key."""
    site = site or Site(path, {}, None, "")
    legal = site.legal
    if legal is not None and (part in legal or part in site.tolerated):
        return None
    near = site.hints.get(part) or _near_miss(part, frozenset(children) | site.near)
    if legal is None and near is None:
        return None
    if legal is not None:
        near = near or _closest(part, legal | children.keys())
    rest = option[len(path) + 1 + len(part) :]
    known = ", ".join(sorted(children)) or "nothing"
    advice = f"did you mean '{path}.{near}{rest}'?" if near else f"it has {known}"
    return f"{option}: {path} has no '{part}'; {advice}"


def _variable_notice(key: str) -> str:
    return (
        f"--cfg-options {key}: only a variable of the config file, whose value was copied when the file was "
        "read; set the key that uses it instead"
    )


def _with_types(cfg: dict, options: dict[str, Any]) -> dict:
    """The config with the options that choose a class, because these decide which other keys are valid."""
    types = {key: value for key, value in options.items() if key.rsplit(".", 1)[-1] == "type"}
    if not types:
        return cfg
    from mmengine.config import Config

    changed = Config(cfg)
    for key, value in types.items():
        # A type at a path that does not exist is reported together with the other options.
        try:
            changed.merge_from_dict({key: value})
        except (KeyError, TypeError):
            continue
    return _plain(changed)


def _open_parents(cfg: Any, parts: list[str]) -> None:
    """Replace None by an empty dictionary, into which mmengine can merge, in all parents of a key."""
    node = cfg
    for part in parts[:-1]:
        if isinstance(node, (list, tuple)):
            node = node[int(part)]
            continue
        if part in node and node[part] is None:
            node[part] = {}
        node = node.get(part)
        if node is None:
            return


# -- shared ------------------------------------------------------------------------------------------------
def _plain(cfg: Any) -> dict:
    return cfg.to_dict() if hasattr(cfg, "to_dict") else cfg


def _closest(name: str, names: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The nearest of the names; of equally near ones the one with the longest common prefix."""

    def nearness(other: str) -> tuple[float, int]:
        return difflib.SequenceMatcher(None, other, name).ratio(), len(os.path.commonprefix([name, other]))

    return max(difflib.get_close_matches(name, sorted(names), n=5, cutoff=cutoff), key=nearness, default=None)


def _near_miss(key: str, names: Iterable[str]) -> str | None:
    """The name that `key` certainly misspells: nearly the same, or the same letters in another order."""
    for name in difflib.get_close_matches(key, names, n=1, cutoff=0.75):
        ratio = difflib.SequenceMatcher(None, key, name).ratio()
        # `train_cfg` beside `train_cfg_b` is another name, not a misspelling.
        extended = key.startswith(f"{name}_") or name.startswith(f"{key}_") or key.endswith(f"_{name}")
        if not extended and (ratio >= NEAR or sorted(key) == sorted(name)):
            return name
    return None


def _suggest(key: str, legal: Iterable[str], hints: dict[str, str]) -> str:
    names = sorted(set(legal) - {"_scope_", "_delete_"})
    if hints.get(key) in names:
        return f"did you mean '{hints[key]}'?"
    near = _closest(key, names)
    return f"did you mean '{near}'?" if near else f"it takes {', '.join(names)}"


def _report(where: str, faults: list[str]) -> str:
    if len(faults) == 1:
        return f"unknown key {where}: {faults[0]}"
    return f"{len(faults)} unknown keys {where}:" + "".join(f"\n  {fault}" for fault in faults)
