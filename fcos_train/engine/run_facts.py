"""What a report needs to know of a run besides its log, collected at its start."""

from __future__ import annotations

import platform
import shlex
import sys
from dataclasses import MISSING, asdict, dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import mmengine.dist as dist
import torch
from mmengine.config import Config

from fcos_train.config.bases import bases_of
from fcos_train.config.load import leaf_datasets
from fcos_train.config.options import EvalOptions, TrainOptions
from fcos_train.report.facts import Facts, differences, shown
from mmcv_overrides import device

PACKAGES = ("torch", "onedl-mmengine", "onedl-mmcv", "onedl-mmdetection", "numpy", "opencv-python", "faster-coco-eval")


@dataclass(frozen=True)
class Origin:
    """Where the config of a run comes from. values: of the config file with ``--cfg-options``, not yet prepared."""

    options: TrainOptions | EvalOptions
    values: dict[str, Any]


def facts_of(origin: Origin, cfg: Config, seed: int | None) -> dict[str, Any]:
    """The content of ``report/facts.json``.

    Args:
        cfg: the prepared config.
    """
    options = origin.options
    names, base = bases_of(options.config, options.safe_config) if options.config else ([], {})
    given = {f.name: getattr(options, f.name) for f in fields(options) if getattr(options, f.name) != _default(f)}
    known = Facts(
        command=shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        environment=_environment(seed),
        config=str(options.config or ""),
        base=", ".join(names),
        differences=differences([base, origin.values]) if names else [],
        given=[[f"--{name.replace('_', '-')}", shown(value)] for name, value in given.items()],
        annotations=_of_splits(cfg, lambda leaf: leaf.get("ann_file")),
        images=_of_splits(cfg, lambda leaf: (leaf.get("data_prefix") or {}).get("img")),
        detections=_prefix(cfg),
    )
    return {key: value for key, value in asdict(known).items() if key != "check"}


def _default(field: Any) -> Any:
    """Default of an option; of positional ones a value that nothing equals."""
    if field.default_factory is not MISSING:
        return field.default_factory()
    return field.default


def _environment(seed: int | None) -> dict[str, str]:
    accelerator = device.current()
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "device": f"{accelerator.name}: {accelerator.title()}",
        "processes": str(dist.get_world_size()),
        "cores and threads": f"{device.cores()}, {torch.get_num_threads()}",
        "machine": f"{platform.node()}, {platform.platform()}",
        "python": platform.python_version(),
        **versions,
        **({} if seed is None else {"seed": str(seed)}),
    }


def _of_splits(cfg: Config, read: Any) -> dict[str, str]:
    """A path of the one data set behind the loaders of training and validation, absolute."""
    found = {}
    for split, names in (("train", ("train",)), ("val", ("val", "test"))):
        loader = next((cfg[f"{n}_dataloader"] for n in names if cfg.get(f"{n}_dataloader") is not None), None)
        leaves = leaf_datasets(loader.dataset) if loader is not None else []
        path = read(leaves[0]) if len(leaves) == 1 else None
        if isinstance(path, str):
            found[split] = str((Path(leaves[0].get("data_root") or "") / path).absolute())
    return found


def _prefix(cfg: Config) -> str:
    """Where the metric writes its files, if the config says so."""
    evaluator = cfg.get("val_evaluator") or cfg.get("test_evaluator") or {}
    named = evaluator.get("outfile_prefix") if isinstance(evaluator, dict) else None
    return str(Path(named).absolute()) if named else ""
