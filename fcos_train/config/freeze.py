"""``--freeze``: stages of the backbone that are not trained."""

from __future__ import annotations

from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from torch import nn

from fcos_train.config.load import walk
from mmcv_overrides.errors import UserError

USUAL_STAGES = 4  # of ResNet, Swin and others


def set_freeze(cfg: Config, wanted: str | None) -> list[str]:
    """Freeze the first stages of the backbone, or all of it. Returns lines for the log.

    Args:
        wanted: a number of stages, ``backbone``, or None to leave what the config says.

    Raises:
        UserError: a backbone without ``frozen_stages``, or with fewer stages.
    """
    if wanted is None:
        return []
    backbone = cfg.model.get("backbone")
    if not isinstance(backbone, dict):
        raise UserError(f"--freeze: {cfg.model.get('type')} has no backbone of its own in this config")
    whole = wanted == "backbone"
    number, module, fault = _largest(backbone) if whole else (int(wanted), *_built(backbone, int(wanted)))
    if module is None:
        raise UserError(f"--freeze {wanted}: {backbone.get('type')} refuses frozen_stages={number} ({fault})")
    trained = [name for name, param in module.named_parameters() if param.requires_grad]
    if whole and trained:
        raise UserError(
            f"--freeze backbone: {backbone.get('type')} still trains {trained[0]} with frozen_stages={number}; "
            "give the number of stages"
        )
    before = backbone.get("frozen_stages")
    backbone["frozen_stages"] = number
    total = sum(param.numel() for param in module.parameters())
    frozen = total - sum(param.numel() for param in module.parameters() if param.requires_grad)
    return [
        f"frozen_stages {before} -> {number}: {frozen / 1e6:.2f} of {total / 1e6:.2f} million weights of the backbone "
        "are not trained"
    ]


def _largest(backbone: ConfigDict) -> tuple[int, nn.Module | None, str]:
    """The largest number of stages that a backbone can freeze, and what :func:`_built` returns for it."""
    number, (module, fault) = USUAL_STAGES, _built(backbone, USUAL_STAGES)
    while module is None and number > 0:
        number -= 1
        module, fault = _built(backbone, number)
    while module is not None and number >= USUAL_STAGES:
        larger, _ = _built(backbone, number + 1)
        if larger is None:
            break
        number, module = number + 1, larger
    return number, module, fault


def _built(backbone: ConfigDict, stages: int) -> tuple[nn.Module | None, str]:
    """The backbone with so many stages frozen, as it is in training; or None and what it says of that number."""
    part = {key: value for key, value in backbone.items() if key != "init_cfg"}
    try:
        module = MODELS.build({**part, "frozen_stages": stages})
        module.train()  # freezes too; that of mmdet's ResNet returns nothing
        return module, ""
    except (AttributeError, AssertionError, IndexError, KeyError, TypeError, ValueError) as error:
        return None, str(error)


def require_weights(cfg: Config, wanted: str | None) -> None:
    """Refuse to freeze random weights.

    Raises:
        UserError: frozen stages that no file has weights for.
    """
    if wanted is None or cfg.get("load_from"):
        return
    sources = list(walk([cfg.model.get("init_cfg"), cfg.model.backbone]))
    if not any(str(part.get("type")).startswith("Pretrained") or part.get("pretrained") for part in sources):
        raise UserError(
            "--freeze: the frozen stages would keep random weights; give --load-from, or a config with pretrained "
            "weights"
        )
