"""Where files of weights come from, by the environment.

``FCOS_TRAIN_WEIGHTS`` is one of

* a folder: files are taken from it, and nothing is downloaded;
* ``https://HOST[/PATH]``: a mirror with the paths of the original, or with the files alone;
* ``hf://OWNER/NAME``: a repository of the Hugging Face Hub, at ``HF_ENDPOINT``;
* ``modelscope://OWNER/NAME``: a repository of ModelScope, at ``MODELSCOPE_DOMAIN``.

After a mirror come the address of the index and the mirror of the maintained fork, whatever comes first with the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlparse

from fcos_train.weights.index import Weights
from mmcv_overrides.errors import UserError

VARIABLE = "FCOS_TRAIN_WEIGHTS"
ORIGINAL, FORK = "https://download.openmmlab.com/", "https://mmassets.onedl.ai/"  # the same paths below both
FORMS = "a folder, https://HOST, hf://OWNER/NAME or modelscope://OWNER/NAME"


def folder_of_weights(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder that ``FCOS_TRAIN_WEIGHTS`` names; None where it is not set or names a mirror.

    Raises:
        UserError: there is no such folder.
    """
    value = environment.get(VARIABLE, "")
    if not value or "://" in value:
        return None
    if not Path(value).expanduser().is_dir():
        raise UserError(f"{VARIABLE}={value}: there is no such folder. It takes {FORMS}")
    return Path(value).expanduser()


def addresses(weights: Weights, environment: Mapping[str, str] = os.environ) -> list[str]:
    """The addresses of a file in the order in which they are tried.

    Raises:
        UserError: ``FCOS_TRAIN_WEIGHTS`` has a form that is not known.
    """
    others = [weights.url]
    if weights.url.startswith(ORIGINAL):
        others.append(FORK + weights.url.removeprefix(ORIGINAL))
    value = environment.get(VARIABLE, "")
    if "://" not in value:
        return others
    return [*_of_mirror(value.rstrip("/"), weights, environment), *others]


def _of_mirror(value: str, weights: Weights, environment: Mapping[str, str]) -> list[str]:
    scheme, _, rest = value.partition("://")
    if scheme in ("http", "https") and rest:
        return [value + urlparse(weights.url).path, f"{value}/{weights.file}"]
    if scheme in ("hf", "modelscope") and re.fullmatch(r"[\w.-]+/[\w.-]+", rest):
        if scheme == "hf":
            host = environment.get("HF_ENDPOINT") or "https://huggingface.co"
            return [f"{_address(host)}/{rest}/resolve/main/{weights.file}"]
        host = environment.get("MODELSCOPE_DOMAIN") or "www.modelscope.cn"
        return [f"{_address(host)}/models/{rest}/resolve/master/{weights.file}"]
    raise UserError(f"{VARIABLE}={value}: give {FORMS}")


def _address(host: str) -> str:
    """A host with its scheme and without a slash at its end."""
    return (host if "://" in host else f"https://{host}").rstrip("/")
