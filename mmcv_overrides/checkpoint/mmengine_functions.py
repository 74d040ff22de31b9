"""Replacements of mmengine's functions that read and write checkpoints, with its signatures."""

from __future__ import annotations

import http.client
import os
import re
import tempfile
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.runner.checkpoint import get_torchvision_models as _upstream_torchvision
from mmengine.runner.checkpoint import save_checkpoint as _upstream_save
from mmengine.runner.checkpoint import weights_to_cpu as _upstream_weights_to_cpu
from mmengine.utils import apply_to as _upstream_apply_to

from mmcv_overrides.checkpoint.background import captured, is_capturing
from mmcv_overrides.checkpoint.plain import plain
from mmcv_overrides.checkpoint.reading import load, read
from mmcv_overrides.checkpoint.weights import StateDict, load_weights, state_dict_of
from mmcv_overrides.checkpoint.writing import check_finite, save
from mmcv_overrides.errors import UserError


def save_checkpoint(
    checkpoint: dict, filename: str, file_client_args: dict | None = None, backend_args: dict | None = None
) -> None:
    """Replaces mmengine's: local files are written by :func:`save`; remote backends get the same content.

    Within :meth:`.background.BackgroundWriter.capturing`, a local file is written after the return.
    """
    if is_local(filename, file_client_args, backend_args):
        return None if captured(checkpoint, filename) else save(checkpoint, filename)
    check_finite(checkpoint)
    return _upstream_save(plain(checkpoint), str(filename), file_client_args, backend_args)


def weights_to_cpu(state_dict: Any) -> Any:
    """Replaces mmengine's in the runner: the tensors stay where they are if they are about to be copied anyway."""
    return state_dict if is_capturing() else _upstream_weights_to_cpu(state_dict)


def apply_to(data: Any, expr: Callable[[Any], bool], apply_func: Callable[[Any], Any]) -> Any:
    """Replaces mmengine's in the runner, which moves a state to the CPU with it: as :func:`weights_to_cpu`."""
    return _upstream_apply_to(data, expr, (lambda part: part) if is_capturing() else apply_func)


def is_local(
    filename: str | os.PathLike, file_client_args: dict | None = None, backend_args: dict | None = None
) -> bool:
    """Whether mmengine would write ``filename`` to a local file."""
    if "://" in str(filename) or (file_client_args is not None and backend_args is not None):
        return False  # left to upstream, where both arguments together are an error
    if file_client_args is not None:
        return file_client_args.get("backend") in ("disk", "local")
    return (backend_args or {}).get("backend", "local") == "local"


def load_from_local(filename: str, map_location: Any = None) -> dict:
    """Replaces mmengine's loader of local files (scheme '' of ``CheckpointLoader``) by :func:`load`."""
    return load(filename, map_location=map_location)


def get_torchvision_models() -> dict[str, str]:
    """Replaces mmengine's: the addresses of weights named ``torchvision://...``.

    Raises:
        UserError: torchvision, which knows the addresses, is not installed.
    """
    try:
        return _upstream_torchvision()
    except ModuleNotFoundError as error:
        raise UserError(
            f"weights named torchvision://... need torchvision for their address, and {error}: pip install torchvision "
            "(the version that pairs with this torch), or download the weights and name the file"
        ) from error


def load_checkpoint_file(filename: str, map_location: Any = None, logger: Any = None) -> dict:
    """Replaces mmengine's ``_load_checkpoint``: :func:`load` for local files, upstream's loaders for the rest."""
    if "://" in str(filename):
        return CheckpointLoader.load_checkpoint(filename, map_location, logger)
    return load_from_local(filename, map_location)


def safe_torch_load(file: Any, map_location: Any = None, weights_only: bool | None = None) -> Any:
    """Replaces mmengine's ``_safe_torch_load``, which falls back to unpickling with only a warning.

    ``weights_only=False`` has no effect: only ``trust_checkpoints`` or the environment allows unpickling.

    Args:
        file: a path, or an open binary file, as remote backends pass it.
    """
    if isinstance(file, (str, os.PathLike)):
        return load(file, map_location=map_location)
    return read(file, str(getattr(file, "name", "from a remote store")), map_location)


def load_url(
    url: str,
    model_dir: str | None = None,
    map_location: Any = None,
    progress: bool = True,
    check_hash: bool = False,
    file_name: str | None = None,
    weights_only: bool = True,
) -> dict:
    """Replaces ``torch.utils.model_zoo.load_url`` in mmengine: the same cache, read by :func:`load`.

    Raises:
        UserError: the download failed (the message says where to put the file by hand), or the file is refused or not a
            checkpoint; such a download is not kept.
    """
    folder = Path(model_dir) if model_dir else Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / (file_name or os.path.basename(urlparse(url).path))
    if file.exists():
        try:
            return load(file, map_location=map_location)
        except UserError as error:
            raise UserError(
                f"{error}. It is in the download cache: delete it to download it again", error.setting
            ) from error
    digest = re.search(r"-([a-f0-9]*)\.", file.name) if check_hash else None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
            new = Path(scratch) / file.name
            torch.hub.download_url_to_file(url, str(new), digest and digest.group(1), progress=progress)
            found = _downloaded(new, url, map_location)
            os.replace(new, file)
    except (urllib.error.URLError, http.client.HTTPException, OSError, RuntimeError) as error:
        raise UserError(
            f"cannot download {url} ({error}). Without a network, download it elsewhere and put it at {file}, "
            "or train from random weights with model.backbone.init_cfg=None"
        ) from error
    return found


def _downloaded(file: Path, url: str, map_location: Any) -> dict:
    try:
        with open(file, "rb") as opened:
            found = read(opened, url, map_location)
    except UserError as error:
        raise UserError(f"{error}. The download was not kept", error.setting) from error
    if not isinstance(found, dict):
        raise UserError(f"{url} is not a checkpoint: it contains a {type(found).__name__}. The download was not kept")
    return found


def load_checkpoint_to_model(
    model: torch.nn.Module,
    checkpoint: dict,
    strict: bool = False,
    logger: Any = None,
    revise_keys: list = [(r"^module\.", "")],  # noqa: B006  (upstream's signature)
) -> dict:
    """Replaces mmengine's ``_load_checkpoint_to_model`` in the runner by :func:`load_weights`.

    Raises:
        RuntimeError: ``strict``, and not everything matched, as upstream.
        UserError: the checkpoint is of another model.
    """
    weights = state_dict_of(checkpoint)
    revised = StateDict()
    for key, value in weights.items():
        for pattern, replacement in revise_keys:
            key = re.sub(pattern, replacement, key)
        revised[key] = value
    revised._metadata = getattr(weights, "_metadata", None)
    report = load_weights(model, {"state_dict": revised, "meta": checkpoint.get("meta", {})}, logger)
    if strict and not report.complete:
        raise RuntimeError(f"the model and the checkpoint do not match exactly: {report.summary()}")
    return checkpoint
