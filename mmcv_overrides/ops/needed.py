"""Which operators a model will lack, found before the run; some are called at the first validation only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.runner import Runner
from torch import nn

from mmcv_overrides.ops.ext import LACKING, OperatorMissing
from mmcv_overrides.seams import Override

# These files of mmcv.ops compute in torch where the compiled operator cannot be used.
WITH_TORCH_FORM = ("bias_act", "filtered_lrelu", "fused_bias_leakyrelu", "sync_bn", "upfirdn2d")
_build_model = Runner.build_model


def check(config: Any, model: nn.Module) -> None:
    """Raise if the model will call an operator that exists in compiled form only.

    Layers of ``mmcv.ops`` are found in the model, kinds of non-maximum suppression in its config.

    Args:
        config: the ``model`` of the config, or the model itself if it was built by the user.
        model: the built model.

    Raises:
        OperatorMissing: names the operators and the layers or keys that need them.
    """
    found = dict.fromkeys([*_layers(model), *_kinds(config, "model")])
    if found:
        raise OperatorMissing(
            f"the model needs operators of a compiled mmcv, and this mmcv was installed without: {'; '.join(found)}. "
            "Install an mmcv that was compiled for this torch and device, or use another layer in the config."
        )


def build_model(self: Runner, model: nn.Module | dict) -> nn.Module:
    """`Runner.build_model` with `check`."""
    built = _build_model(self, model)
    check(model, built)
    return built


def _layers(model: nn.Module) -> Iterator[str]:
    for name, layer in model.named_modules():
        for kind in type(layer).__mro__:
            package, _, file = kind.__module__.rpartition(".")
            if package == "mmcv.ops" and file not in WITH_TORCH_FORM and file in LACKING:
                yield f"{', '.join(LACKING[file])} for layer '{name}' ({kind.__name__})"


def _kinds(value: Any, path: str) -> Iterator[str]:
    """Entries such as ``nms=dict(type="nms_quadri")``, which ``batched_nms`` calls by this name."""
    if isinstance(value, dict):
        if isinstance(value.get("type"), str) and value["type"] in LACKING.get("nms", ()):
            yield f"{value['type']} for {path}.type"
        for key, item in value.items():
            yield from _kinds(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _kinds(item, f"{path}[{number}]")


OVERRIDES = [
    Override(
        "mmengine.runner.runner:Runner.build_model",
        build_model,
        "a layer that needs a compiled operator is an error before the run, not at its first call",
    ),
]
