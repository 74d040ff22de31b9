"""Pretrained weights that a config asks for: checked before the run starts."""

from __future__ import annotations

import socket

from mmengine.config import Config, ConfigDict

from fcos_train.config.load import walk
from mmcv_overrides.errors import UserError


def pretrained_sources(cfg: Config) -> list[ConfigDict]:
    """The dicts of the model that ask for pretrained weights."""
    return [
        part
        for part in walk(cfg.model)
        if isinstance(part.get("init_cfg"), dict) and part["init_cfg"].get("type") == "Pretrained"
    ]


def settle_pretrained(cfg: Config, mode: str) -> list[str]:
    """Decide on the pretrained weights before the run starts, not after the data were read.

    Raises:
        UserError: mode ``require`` and the weights are not available.
    """
    from mmengine.runner import CheckpointLoader

    notes = []
    for part in pretrained_sources(cfg):
        source = part["init_cfg"]["checkpoint"]
        fault = "--pretrained none" if mode == "none" else None
        if fault is None:
            before = socket.getdefaulttimeout()
            socket.setdefaulttimeout(20)
            try:
                CheckpointLoader.load_checkpoint(source, map_location="cpu", logger="silent")
            except (OSError, KeyError, UserError) as error:
                fault = f"{type(error).__name__}: {error}"
            finally:
                socket.setdefaulttimeout(before)
        if fault is None:
            continue
        if mode == "require":
            raise UserError(
                f"the pretrained weights {source} are not available ({fault}). Download them on a machine with a "
                "network into $TORCH_HOME/hub/checkpoints, or name a file: "
                "--cfg-options model.backbone.init_cfg.checkpoint=FILE; --pretrained none trains from random weights"
            )
        part["init_cfg"] = None
        notes.append(f"WARNING: training {part.get('type')} from random weights: {source} not used ({fault})")
    return notes
