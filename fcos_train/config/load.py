"""Find a config, read it, walk through it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from mmengine.config import Config, ConfigDict

from fcos_train.config import mmdet2
from fcos_train.config.options import EvalOptions, TrainOptions
from mmcv_overrides.errors import UserError

Options = TypeVar("Options", TrainOptions, EvalOptions)
ROOT = Path(__file__).resolve().parents[2]


def config_folders() -> dict[str, Path]:
    """Where configs are found: ours (beside the code, or installed within it), and those that mmdet carries."""
    import mmdet

    beside, within = ROOT / "configs", Path(__file__).resolve().parents[1] / "configs"
    return {"": beside if beside.is_dir() else within, "mmdet::": Path(mmdet.__file__).parent / ".mim" / "configs"}


def find_config(name: str) -> Path:
    """Path of a config given by path, by name in ``configs/``, as ``mmdet::folder/name``, or by a name of mmdet 2.x.

    Raises:
        UserError: there is none; the message has the nearest names.
    """
    if Path(name).is_file():
        return Path(name)
    prefix = "mmdet::" if name.startswith("mmdet::") else ""
    folder = config_folders()[prefix]
    wanted = name.removeprefix(prefix).removeprefix("configs/")
    for candidate in (folder / wanted, folder / f"{wanted}.py"):
        if candidate.is_file():
            return candidate
    known = [str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.py") if "_base_" not in p.parts]
    renamed = _of_mmdet2(wanted)
    if renamed is not None:
        return renamed
    near = difflib.get_close_matches(wanted.removesuffix(".py"), known, n=3, cutoff=0.5)
    near = near or [k for k in known if Path(k).name == Path(wanted).stem][:3]
    hint = f"; did you mean {', '.join(prefix + n for n in near)}?" if near else ""
    raise UserError(f"no config '{name}' (looked for a file and in {folder}){hint}")


def _of_mmdet2(name: str) -> Path | None:
    """The one config of the same words as ``name``: mmdet 3.x put the words of most names into another order.

    ``dcn/cascade_rcnn_r101_fpn_dconv_c3-c5_1x_coco`` is ``dcn/cascade-rcnn_r101-dconv-c3-c5_fpn_1x_coco``. Shipped
    configs come first.
    """
    words = _words(name)
    for folder in config_folders().values():
        found = [path for path in folder.rglob("*.py") if _words(path.name) == words and "_base_" not in path.parts]
        # A bare name that exists in a folder gets a hint from the caller, as any other.
        if len(found) == 1 and len(words) > 2 and ("/" in name or found[0].stem != stem(name)):
            return found[0]
    return None


def _words(name: str) -> list[str]:
    return sorted(re.split(r"[-_]", Path(name.removesuffix(".py")).name))


def load_config(name: str, safe: bool = False) -> Config:
    """The config of :func:`read_config`, for those who have no log for its lines."""
    return read_config(name, safe)[0]


def read_config(name: str, safe: bool = False) -> tuple[Config, list[str]]:
    """Read a config, with one clear message when it is broken; one of mmdet 2.x is translated.

    Args:
        name: see :func:`find_config`.
        safe: read it as data, see :mod:`.safe_config`; otherwise a ``.py`` file is a program that runs.

    Returns:
        the config, and lines for the log: what was translated.

    Raises:
        UserError: not found, not Python, of mmdet 2.x with something that cannot be translated, or ``safe`` and more
            than data.
    """
    from fcos_train.config import safe_config

    path = find_config(name)
    renamed = [] if _words(name) != _words(path.name) or stem(name) == path.stem else [f"config {name} -> {path}"]
    try:
        cfg = safe_config.read(path) if safe else Config.fromfile(str(path))
        cfg, notes = mmdet2.modern(cfg, f"config {path}") if mmdet2.is_v2(cfg) else (cfg, [])
        if safe:
            safe_config.check(cfg, path)
    except UserError as error:
        message = str(error)
        if str(path) in message:
            raise
        raise UserError(f"config {path}, or one of its bases: {message.removeprefix('config ')}") from error
    except (ImportError, RuntimeError) as error:
        from fcos_train.config.packages import is_of_packages, said_by

        if not is_of_packages(error):
            raise UserError(f"config {path} cannot be read: {type(error).__name__}: {error}") from error
        raise UserError(f"config {path} needs a package that is missing: {said_by(error)}") from error
    except SystemExit as error:
        raise UserError(f"config {path} ends the program (exit {error.code}) instead of defining values") from error
    except Exception as error:
        raise UserError(f"config {path} cannot be read: {type(error).__name__}: {error}") from error
    return cfg, [*renamed, *notes]


def configured(
    config: str | Config, cfg_options: dict[str, Any], safe: bool = False
) -> tuple[Config, dict[str, Any], list[str]]:
    """A config with ``--cfg-options`` in it: keys of mmdet 2.x are translated, unknown ones refused.

    Args:
        config: a Config, which is changed, or its name. safe: see :func:`read_config`.
        cfg_options: dotted key -> value.

    Returns:
        the config; values that stand for options of the verb (``data_path``, ``loss_scale``, ``max_iters``), which
        count where the flag was not given; lines for the log.

    Raises:
        UserError: as :func:`load_config`, an unknown key with the nearest known one, or impossible values.
    """
    from fcos_train.config.keys.bounds import require_values
    from fcos_train.config.keys.check import merge_options
    from fcos_train.config.keys.forms import require_forms
    from fcos_train.config.keys.v2 import SPECIAL_KEYS, translate_v2

    cfg, read = (config, []) if isinstance(config, Config) else read_config(config, safe)
    translated, notices = translate_v2(cfg_options, cfg)
    special = {
        flag.removeprefix("--").replace("-", "_"): translated.pop(key)
        for key, flag in SPECIAL_KEYS.items()
        if key in translated
    }
    notices += merge_options(cfg, translated)
    require_forms(cfg)
    require_values(cfg)
    return cfg, special, [*read, *notices]


def fill(options: Options, special: dict[str, Any]) -> Options:
    """The options with the values of :func:`configured` for those that were not given."""
    return replace(options, **{key: value for key, value in special.items() if getattr(options, key, value) is None})


def walk(node: Any) -> Iterator[ConfigDict]:
    """Every dict within a config, outermost first."""
    if isinstance(node, dict):
        yield node
        for value in list(node.values()):
            yield from walk(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from walk(value)


def leaf_datasets(dataset: ConfigDict) -> list[ConfigDict]:
    """The data sets that read files, inside wrappers such as RepeatDataset, ConcatDataset, MultiImageMixDataset."""
    if "datasets" in dataset:
        return [leaf for inner in dataset.datasets for leaf in leaf_datasets(inner)]
    if isinstance(dataset.get("dataset"), dict):
        return leaf_datasets(dataset.dataset)
    return [dataset]


def test_pipeline(config: Config) -> list[dict] | None:
    """The pipeline of the test (else validation) data set, inside any wrappers; None if the config has none."""
    for name in ("test_dataloader", "val_dataloader"):
        node = (config.get(name) or {}).get("dataset")
        while node:
            if node.get("pipeline"):
                return list(node["pipeline"])
            node = node.get("dataset") or (node.get("datasets") or [None])[0]
    steps = config.get("test_pipeline")
    return None if steps is None else list(steps)


def stem(name: str) -> str:
    """Name of a run: that of its config file."""
    return re.sub(r"\.py$", "", Path(name.removeprefix("mmdet::")).name)
