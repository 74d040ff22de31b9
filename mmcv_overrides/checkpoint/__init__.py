"""Checkpoints: atomic writing, reading that executes nothing, exact resume, weights matched by name and class.

Modules: ``writing`` (save), ``background`` and ``host_copy`` (beside the training), ``reading``, ``limits``,
``unpickle`` and ``scan`` (load), ``plain`` (what a file may hold), ``values`` (weights that are not numbers),
``embedded_config`` (the configuration in a checkpoint), ``newest``, ``links``, ``resume``, ``position``, ``schedule``
and ``missed_validation`` (resume), ``weights``, ``class_rows``, ``adelaidet`` and ``torchvision_names`` (weights into
a model), ``saving``, ``hook`` and ``every`` (during training), ``rng`` (random states), ``mmengine_functions``
(replacements of mmengine's functions).
"""

from mmcv_overrides.checkpoint.background import train
from mmcv_overrides.checkpoint.embedded_config import fromstring
from mmcv_overrides.checkpoint.every import ExtraCheckpointHook
from mmcv_overrides.checkpoint.hook import SafeCheckpointHook
from mmcv_overrides.checkpoint.mmengine_functions import (
    apply_to,
    get_torchvision_models,
    load_checkpoint_file,
    load_checkpoint_to_model,
    load_from_local,
    load_url,
    safe_torch_load,
    save_checkpoint,
    weights_to_cpu,
)
from mmcv_overrides.checkpoint.newest import find_latest_checkpoint, newest_readable
from mmcv_overrides.checkpoint.reading import load, trust_checkpoints, trusted
from mmcv_overrides.checkpoint.resume import resume
from mmcv_overrides.checkpoint.weights import MatchReport, load_weights, state_dict_of
from mmcv_overrides.checkpoint.writing import NonFiniteWeights, save
from mmcv_overrides.seams import Override

__all__ = [
    "OVERRIDES",
    "ExtraCheckpointHook",
    "MatchReport",
    "NonFiniteWeights",
    "SafeCheckpointHook",
    "find_latest_checkpoint",
    "get_torchvision_models",
    "load",
    "load_checkpoint_file",
    "load_checkpoint_to_model",
    "load_from_local",
    "load_url",
    "load_weights",
    "newest_readable",
    "safe_torch_load",
    "save",
    "save_checkpoint",
    "state_dict_of",
    "trust_checkpoints",
    "trusted",
]

_ATOMIC = "upstream writes in place: a crash or a full disk destroys the old file too"
_ONE_COPY = "a checkpoint that is written in the background is copied to the host once, not twice"
_CLEAR = "one clear message for a missing, empty or truncated file"
OVERRIDES = [
    Override(
        "HOOKS:CheckpointHook",
        SafeCheckpointHook,
        "upstream deletes the old file before it writes the new one, and does not resume random states",
    ),
    Override("mmengine.runner.runner:save_checkpoint", save_checkpoint, _ATOMIC),
    Override("mmengine.runner.checkpoint:save_checkpoint", save_checkpoint, _ATOMIC),
    Override("mmengine.runner:save_checkpoint", save_checkpoint, _ATOMIC),
    Override("mmengine.runner.runner:Runner.train", train, "a training that fails waits for the checkpoint in flight"),
    Override("mmengine.runner.runner:weights_to_cpu", weights_to_cpu, _ONE_COPY),
    Override("mmengine.runner.runner:apply_to", apply_to, _ONE_COPY),
    Override(
        "mmengine.runner.checkpoint:_safe_torch_load",
        safe_torch_load,
        "upstream unpickles any file after a warning",
    ),
    Override(
        "mmengine.config.config:Config.fromstring",
        staticmethod(fromstring),
        "upstream executes the configuration text of a checkpoint that is resumed or used for inference",
    ),
    Override(
        "mmengine.runner.runner:Runner.resume",
        resume,
        "one clear message for a checkpoint without training state or of another optimizer",
    ),
    Override("mmengine.runner.runner:_load_checkpoint", load_checkpoint_file, _CLEAR),
    Override("mmengine.runner.checkpoint:_load_checkpoint", load_checkpoint_file, _CLEAR),
    Override(
        "mmengine.runner.checkpoint:get_torchvision_models",
        get_torchvision_models,
        "a bare ModuleNotFoundError for torchvision://... without torchvision",
    ),
    Override(
        "mmengine.runner.checkpoint:load_url",
        load_url,
        "torch < 2.6 unpickles downloads; its errors say nothing about offline machines",
    ),
    Override(
        "mmengine.runner.runner:find_latest_checkpoint",
        find_latest_checkpoint,
        "upstream takes a truncated file and fails",
    ),
    Override(
        "mmengine.runner.runner:_load_checkpoint_to_model",
        load_checkpoint_to_model,
        "one line on what matched; weights of another model are an error",
    ),
]
