"""What the machines and ranks of one training must have in common, as flat text that is compared and told.

Facts are ``{section: {name: value}}``: the flags, the config with ``--cfg-options``, versions, data. Paths are left
out, because machines may keep the same files in different places.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from fcos_train.config.fields import Options, declared
from mmcv_overrides.printable import printable

Section = Mapping[str, str]
Facts = Mapping[str, Section]

FLAGS, CONFIG, DATA = "flags", "config", "data set"
# What each machine may choose for itself: places, its devices, how much it prints; --cfg-options are in the config.
OWN = frozenset(
    ("config", "checkpoint", "data_path", "work_dir", "device", "devices", "npu_ids", "workers", "progress",
     "local_rank", "launcher", "allow_outside", "check", "report", "out", "show_dir", "cfg_options")
)  # fmt: skip
FILES = ("resume", "load_from")  # compared by their names
PLACES = re.compile(r"(^|\.)(data_root|ann_file|work_dir|save_dir|data_prefix\.\w+)$")
MEMORY = re.compile(r" at 0x[0-9a-f]+")
LONGEST, NAMED = 60, 3
REMEDIES = {
    FLAGS: "start all of them with the same flags",
    CONFIG: "give all of them the same config and --cfg-options",
    DATA: "copy the data set of node 0, or give the right --data_path",
}


def flags_of(options: Options) -> dict[str, str]:
    """The flags of a training or an evaluation as they were given: ``--batch-size`` -> ``4``."""
    found = {}
    kind: type = type(options)
    for one in declared(kind):
        if one.name in OWN or one.owner:
            continue
        value = getattr(options, one.name)
        if one.switch:
            value = None if value == one.default else "given"
        elif one.name in FILES and value is not None:
            value = Path(value).name
        found[one.shown] = "not given" if value is None else _text(value)
    return found


def config_facts(cfg: Config) -> dict[str, str]:
    """The values of a config by their dotted keys, without places of files."""
    return {key: value for key, value in _flat(cfg.to_dict(), "") if not PLACES.search(key)}


def _flat(node: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict) and node:
        parts = node.items()
    elif isinstance(node, (list, tuple)) and any(isinstance(part, (dict, list, tuple)) for part in node):
        parts = enumerate(node)  # type: ignore[assignment]
    else:
        yield key, _text(node)
        return
    for name, part in parts:
        yield from _flat(part, f"{key}.{name}" if key else str(name))


def _text(value: Any) -> str:
    """A value as text that is the same in every process."""
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return value if isinstance(value, str) else MEMORY.sub("", repr(value))


def digest(facts: Facts) -> str:
    """A short text that is the same for the same facts."""
    ordered = [(section, sorted(values.items())) for section, values in sorted(facts.items())]
    return hashlib.sha256(repr(ordered).encode()).hexdigest()


def disagreements(
    mine: Facts, others: Facts, who: str, first: str, remedies: Mapping[str, str] = REMEDIES
) -> list[str]:
    """One line for each section in which ``others``, the facts of ``who``, differ from ``mine``, those of ``first``.

    The flags that both have are compared, with a line each.

    Args:
        remedies: what to do, by section.
    """
    lines = []
    for section in dict.fromkeys((*mine, *others)):
        ours, theirs = mine.get(section, {}), others.get(section, {})
        known = ours.keys() & theirs.keys() if section == FLAGS else {*ours, *theirs}
        keys = [key for key in dict.fromkeys((*ours, *theirs)) if key in known and ours.get(key) != theirs.get(key)]
        said = [f"{key} is {_shown(theirs.get(key))}, on {first} it is {_shown(ours.get(key))}" for key in keys]
        remedy = remedies.get(section, "make them the same")
        if section == FLAGS:
            lines += [f"{who}: {text}: {remedy}" for text in said]
        elif said:
            more = f"; and {len(said) - NAMED} more" if len(said) > NAMED else ""
            lines.append(f"{who}: the {section} differs: {'; '.join(said[:NAMED])}{more}: {remedy}")
    return lines


def _shown(value: str | None) -> str:
    text = printable("absent" if value is None else value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} [{len(text)} characters]"
