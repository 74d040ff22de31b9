"""``--img-size``: the size that images are resized to, in all pipelines."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine.config import Config, ConfigDict

from fcos_train.config.augment import SIZING, kind_of
from fcos_train.config.batch_shapes import COLLATE
from fcos_train.config.load import leaf_datasets, walk
from fcos_train.config.loaders import LOADERS
from mmcv_overrides.errors import UserError

# Steps with sizes of their own, in px, which would contradict the flag.
SIZED = {"Mosaic", "MixUp", "CachedMosaic", "CachedMixUp", "RandomCrop", "RandomCenterCropPad", "FixShapeResize"}


def set_image_size(cfg: Config, size: tuple[int, int] | None, augmented: bool) -> list[str]:
    """Resize the images of all loaders to fit into ``size``, with the ``keep_ratio`` of the config. Returns log lines.

    Args:
        size: (width, height) in px; None leaves the config's.
        augmented: a preset of augmentation replaces the random steps of the training pipeline.

    Raises:
        UserError: a pipeline without a step that resizes, or with another step that has a size of its own.
    """
    if size is None:
        return []
    notes = []
    for name in LOADERS:
        if cfg.get(name) is None:
            continue
        training = name == "train_dataloader"
        for steps in _pipelines(cfg[name].dataset):
            _require_one_size(name, steps, training and augmented)
            notes += [f"{name}: {line}" for step in steps for line in _resized(step, size)]
    collate = (cfg.get("train_dataloader") or {}).get("collate_fn") or {}
    if collate.get("type") == COLLATE and collate.pop("shapes", None):
        notes.append("train_dataloader: collate_fn.shapes follow from --img-size")
    if (cfg.model.get("data_preprocessor") or {}).get("batch_augments"):
        raise UserError("--img-size: model.data_preprocessor.batch_augments sets the sizes of batches in this config")
    return list(dict.fromkeys(notes))


def _pipelines(dataset: ConfigDict) -> Iterator[list[ConfigDict]]:
    for leaf in leaf_datasets(dataset):
        if leaf.get("pipeline"):
            yield list(leaf.pipeline)


def _require_one_size(name: str, steps: list[ConfigDict], augmented: bool) -> None:
    kinds = [kind_of(step) for step in walk(steps)]
    others = [] if augmented else [kind for kind in kinds if kind in SIZED]
    others += [kind_of(step) for step in steps if kind_of(step) == "Pad" and step.get("size")]
    if others or sum(kind in SIZING for kind in kinds) != 1 or not any(kind_of(step) in SIZING for step in steps):
        found = ", ".join(kind for kind in kinds if kind in SIZING | SIZED | {"Pad"}) or "none"
        raise UserError(
            f"--img-size needs a pipeline with one step that resizes; {name} has {found}. Set the sizes in the config"
        )


def _resized(step: ConfigDict, size: tuple[int, int]) -> Iterator[str]:
    """Give a step that resizes its new size. Yields the line for the log."""
    kind = kind_of(step)
    if kind not in SIZING:
        return
    old = step.pop("scales", None) or step.pop("scale", None)
    if kind == "RandomChoiceResize":  # one size, so that there is nothing to choose from
        settings = step.pop("resize_cfg", None) or {}
        step["keep_ratio"] = settings.get("keep_ratio", step.get("keep_ratio", True))
        step.pop("resize_type", None)
        step["type"] = "Resize"
    step["scale"] = tuple(size)
    yield f"{kind} {old} -> {tuple(size)}"
