"""From a configuration of mmdet 2.x, a file or the text in a checkpoint, to one that mmdet 3.x reads."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config

from fcos_train.config.keys.v2 import V2_TOP_LEVEL
from fcos_train.config.mmdet2.data import modern_loaders, pipelines_of
from fcos_train.config.mmdet2.model import modern_model
from fcos_train.config.mmdet2.pipeline import PACKING, modern_pipeline, pixels_of
from fcos_train.config.mmdet2.schedule import modern_training
from mmcv_overrides.errors import UserError

Part = dict[str, Any]
LOOPS = ("_dataloader", "_evaluator")
OLD_STEPS = ("MultiScaleFlipAug", *PACKING)
# Kept as they are: their meaning did not change.
SAME = ("custom_imports", "find_unused_parameters", "load_from", "log_level", "work_dir")
# Translated, or variables whose values are in the translated parts.
READ = {"model", "data", "train_cfg", "test_cfg", "img_norm_cfg", "train_pipeline", "test_pipeline", "val_pipeline"}
READ |= {"optimizer", "optimizer_config", "lr_config", "runner", "total_epochs", "total_iters", "evaluation", "fp16"}
READ |= {"checkpoint_config", "log_config", "custom_hooks", "auto_scale_lr", "resume_from", "seed", "cudnn_benchmark"}
# Variables, and settings of the machine that trained.
UNUSED = {"dataset_type", "data_root", "classes", "CLASSES", "workflow", "dist_params", "gpu_ids", "gpus", "device"}
UNUSED |= {"auto_resume", "mp_start_method", "opencv_num_threads", "img_scale", "num_classes", "file_client_args"}
UNUSED |= {
    "max_epochs",
    "num_last_epochs",
    "interval",
    "resume",
    "launcher",
    "work_dirs",
    "warmup_epochs",
    "train_dataset",
}
UNUSED |= {"albu_train_transforms", "norm_cfg", "opt_level", "amp", "loss_scale", "local_rank", "train_dataset"}


def is_v2(cfg: Config | Part) -> bool:
    """Whether a configuration is of mmdet 2.x: it has ``data`` or ``optimizer``, or steps that 3.x does not have."""
    if any(str(key).endswith(LOOPS) and cfg.get(key) for key in cfg) or cfg.get("optim_wrapper"):
        return False
    data = cfg.get("data")
    if isinstance(data, dict) and any(isinstance(data.get(split), (dict, list)) for split in ("train", "val", "test")):
        return True
    if any(cfg.get(key) for key in ("optimizer", "lr_config", "img_norm_cfg", "total_epochs")):
        return True
    steps = [step for name in ("test_pipeline", "train_pipeline") for step in cfg.get(name) or ()]
    return any(isinstance(step, dict) and step.get("type") in OLD_STEPS for step in steps)


def modern(cfg: Config, where: str) -> tuple[Config, list[str]]:
    """The configuration for mmdet 3.x, and a line for each thing that was translated.

    Args:
        cfg: one for which :func:`is_v2` holds; it is not changed.
        where: the file, for messages.

    Raises:
        UserError: something has no counterpart; the message names it.
    """
    try:
        return _modern(cfg.to_dict(), where)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:  # values of unexpected types
        raise UserError(
            f"{where}: this configuration of mmdet 2.x cannot be translated to 3.x ({type(error).__name__}: {error}). "
            "Use the config of the same model of mmdet 3.x instead (mmdet::<folder>/<name>, or one in configs/)"
        ) from error


def _modern(old: Part, where: str) -> tuple[Config, list[str]]:
    lines: list[str] = []
    say = lines.append
    data = dict(old.get("data") or {})
    loose = [old[name] for name in ("test_pipeline", "val_pipeline", "train_pipeline") if old.get(name)]
    pipelines = pipelines_of(data) or loose
    new = _runtime()
    new["model"] = modern_model(
        dict(old.get("model") or {}),
        old.get("train_cfg"),
        old.get("test_cfg"),
        pixels_of(pipelines, old.get("img_norm_cfg")),
        say,
    )
    new.update(modern_loaders(data, old.get("evaluation") or {}, say))
    if new["test_dataloader"] is None and pipelines:
        new["test_pipeline"] = modern_pipeline(pipelines[0], say, "test_pipeline")
    if pipelines:
        say("pipelines: DefaultFormatBundle, ImageToTensor, Collect -> PackDetInputs; MultiScaleFlipAug -> its steps")
    new.update(modern_training(old, say))
    for key in SAME:
        if old.get(key) is not None:
            new[key] = old[key]
    if old.get("resume_from"):
        new["load_from"], new["resume"] = old["resume_from"], True
    if old.get("seed") is not None:
        new["randomness"] = {"seed": old["seed"]}
    new["env_cfg"] = {"cudnn_benchmark": bool(old.get("cudnn_benchmark", False))}
    unknown = sorted(str(key) for key in old if key not in READ | UNUSED | set(SAME) and key not in V2_TOP_LEVEL)
    if unknown:
        say(f"{', '.join(unknown)} -> nothing: no key of mmdet 2.x that is known here")
    head = f"{where}: a configuration of mmdet 2.x, translated to 3.x:"
    return Config(new, cfg_text=f"# {head}\n"), [head, *(f"  {line}" for line in dict.fromkeys(lines))]


def _runtime() -> Part:
    """What every configuration of 3.x needs and 2.x had no word for."""
    return {"default_scope": "mmdet", "val_cfg": {"type": "ValLoop"}, "test_cfg": {"type": "TestLoop"}, "resume": False}
