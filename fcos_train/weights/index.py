"""The weights that mmdet's model index names: the ``metafile.yml`` files beside its installed configs.

Imports neither torch nor mmdet, so that a name on a command line is checked before they are loaded.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import yaml

from mmcv_overrides.errors import UserError

COCO = "coco"  # stands for the weights nearest to a config, see config/start_weights.py
FILES = (".pth", ".pt", ".tar", ".pkl", ".safetensors")
# A file is <name>[_<date>[_<time>]][-<first digits of its SHA-256>].pth
_STAMP = re.compile(r"(_\d{8}(_\d{6})?)?(-[0-9a-f]{8,})?$")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the first is ten times faster


@dataclass(frozen=True)
class Weights:
    """One file of weights.

    Attributes:
        name: in the index.
        url: of the file.
        config: as :func:`fcos_train.config.load.find_config` takes it; empty if mmdet does not carry it.
        data: the data set it was trained and evaluated on, as in ``COCO``; empty if the index does not say.
        box_ap: box AP there in percent; None if the index does not say.
        aliases: other names of it: of the config, of mmdet 2.x.
    """

    name: str
    url: str
    config: str = ""
    data: str = ""
    box_ap: float | None = None
    aliases: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """Name of the file."""
        return Path(urlparse(self.url).path).name

    @property
    def digest(self) -> str | None:
        """The first digits of the file's SHA-256, which its name ends with; None if it has none."""
        found = re.search(r"-([0-9a-f]{8,})$", Path(self.file).stem)
        return found.group(1) if found else None

    @property
    def licence(self) -> str:
        """A line about the terms of use."""
        data = f"; trained on {self.data}, whose terms apply to its images and annotations" if self.data else ""
        return f"licence of the weights: Apache-2.0, published by OpenMMLab with mmdetection{data}"


def index_folder() -> Path | None:
    """The folder of mmdet's configs and metafiles; None where mmdet is not installed."""
    spec = importlib.util.find_spec("mmdet")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / ".mim" / "configs"


def all_weights() -> tuple[Weights, ...]:
    """Every file of weights in the index, in the order of its folders."""
    folder = index_folder()
    return () if folder is None else _read(folder)


@cache
def _read(folder: Path) -> tuple[Weights, ...]:
    found: dict[str, Weights] = {}
    for metafile in sorted(folder.glob("*/metafile.yml")):
        content = yaml.load(metafile.read_text(encoding="utf-8"), Loader=_Loader)
        models = content if isinstance(content, list) else (content or {}).get("Models") or []
        for model in models:
            for one in _of_model(model, metafile.parent):
                found.setdefault(one.name, one)
    return tuple(found.values())


def _of_model(model: dict[str, Any], folder: Path) -> Iterator[Weights]:
    """The weights of one entry; a list of several files belongs to parts of a tracker and has no name of its own."""
    url = model.get("Weights")
    if not isinstance(url, str) or not isinstance(model.get("Name"), str):
        return
    path = folder / Path(unquote(str(model.get("Config") or model["Name"]))).name
    config = f"mmdet::{folder.name}/{path.stem}" if path.is_file() else ""
    results = [one for one in model.get("Results") or [] if isinstance(one, dict)]
    scores = [one["Metrics"]["box AP"] for one in results if "box AP" in (one.get("Metrics") or {})]
    data = str(results[0].get("Dataset", "")) if results else ""
    other = model.get("Alias") or []
    aliases = {
        path.stem,
        _STAMP.sub("", Path(urlparse(url).path).stem),
        *([other] if isinstance(other, str) else other),
    }
    ap = float(scores[0]) if scores and isinstance(scores[0], (int, float)) else None
    yield Weights(model["Name"], url, config, data, ap, tuple(sorted(aliases - {model["Name"], ""})))


def named(name: str) -> Weights:
    """The weights of a name: that of the index, of their config, of mmdet 2.x, or of the file.

    Raises:
        UserError: there is none, or several have this name; the message has the nearest names.
    """
    known = all_weights()
    for match in (lambda one: name == one.name, lambda one: name in (*one.aliases, one.file)):
        found = [one for one in known if match(one)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"several weights are called {name}: give one of {', '.join(one.name for one in found)}")
    raise UserError(f"no weights are called {name}{_near(name, known)}; `fcos-train weights` lists the names")


def _near(name: str, known: tuple[Weights, ...]) -> str:
    names = {COCO, *(one.name for one in known), *(alias for one in known for alias in one.aliases)}
    near = difflib.get_close_matches(name, sorted(names), n=3, cutoff=0.6)
    return f"; did you mean {', '.join(near)}?" if near else ""


def weights_fault(value: str | Path) -> str | None:
    """Check of an option: a file, an address, ``coco`` or a name of the index."""
    text = str(value)
    if text == COCO or "://" in text or Path(text).is_file():
        return None
    try:
        named(text)
    except UserError as error:
        if Path(text).is_dir():
            return "it is a folder"
        return "no such file" if looks_like_file(text) else f"no such file, and {error}"
    return None


def looks_like_file(text: str) -> bool:
    """Whether somebody who writes this means a file, not a name of the index."""
    return len(Path(text).parts) > 1 or Path(text).suffix in FILES
