"""From a name of weights to a file on this machine: a folder, torch's download cache, or a download into it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fcos_train.weights.download import download, right_content
from fcos_train.weights.index import Weights
from fcos_train.weights.places import VARIABLE, addresses, folder_of_weights
from mmcv_overrides.errors import UserError


def cache_folder() -> Path:
    """Where torch.hub keeps downloads: ``$TORCH_HOME/hub/checkpoints``."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints"


def present(weights: Weights) -> Path | None:
    """The file of weights that is on this machine, if it is; its content is not checked."""
    folder = folder_of_weights()
    places = [folder, cache_folder()] if folder else [cache_folder()]
    return next((place / weights.file for place in places if (place / weights.file).is_file()), None)


def fetch(weights: Weights, say: Callable[[str], None]) -> Path:
    """The file of weights, downloaded where it is not on this machine.

    Args:
        say: prints a line: what is downloaded, from where, and under which licence.

    Raises:
        UserError: it is not available, or its content is not what its name says.
    """
    folder = folder_of_weights()
    file = present(weights)
    if file is not None and right_content(file, weights.digest):
        say(f"weights {weights.name}: {file}")
        say(weights.licence)
        return file
    if file is not None and folder is not None and file.parent == folder:
        raise UserError(
            f"{file}: its SHA-256 does not begin with {weights.digest}, which its name promises: the file is another "
            f"one or was damaged. Copy it again from {weights.url}"
        )
    if folder is not None:
        raise UserError(
            f"{VARIABLE}={folder} has no {weights.file} (weights {weights.name}), and with a folder nothing is "
            f"downloaded. Put the file there, from {weights.url}"
        )
    if file is not None:
        say(f"{file} is damaged (its SHA-256 does not begin with {weights.digest}): it is downloaded again")
    return _downloaded(weights, say)


def _downloaded(weights: Weights, say: Callable[[str], None]) -> Path:
    file = cache_folder() / weights.file
    places = addresses(weights)
    say(f"downloading {weights.name} from {places[0]} to {file}")
    try:
        used = download(file, places, weights.digest)
    except UserError as error:
        raise UserError(
            f"{error}. On a machine with a network download {weights.url}, and put it into {file.parent}, or into a "
            f"folder that {VARIABLE}=DIR names; the variable also takes a mirror (docs/fine-tuning.md)"
        ) from error
    checked = f"SHA-256 begins with {weights.digest}" if weights.digest else "no hash is published: not checked"
    say(f"weights {weights.name}: {file}, from {used} ({checked})")
    say(weights.licence)
    return file
