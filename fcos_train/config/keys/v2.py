"""mmdet 2.x keys -> mmdet 3.x keys, for options in existing scripts.

In the table `RULES`, the first rule whose pattern matches a key says where its value goes. The meaning of a value is
kept: a 2.x path is relative to the current directory, a 3.x path to the data set's `data_root`, so such paths are made
absolute.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmcv_overrides.errors import UserError

Changes = dict[str, Any]

# Results that are flags of the trainer instead of config keys.
SPECIAL_KEYS = {"data_root": "--data-path", "loss_scale": "--loss-scale", "max_iters": "--max-iters"}

# 2.x keys at the top level of a config file -> what 3.x has instead.
V2_TOP_LEVEL = {
    "data": "train_dataloader, val_dataloader and test_dataloader",
    "optimizer": "optim_wrapper.optimizer",
    "optimizer_config": "optim_wrapper (clip_grad, accumulative_counts)",
    "grad_clip": "optim_wrapper.clip_grad",
    "lr_config": "param_scheduler",
    "momentum_config": "param_scheduler",
    "runner": "train_cfg",
    "total_epochs": "train_cfg.max_epochs",
    "evaluation": "val_evaluator and train_cfg.val_interval",
    "checkpoint_config": "default_hooks.checkpoint",
    "log_config": "default_hooks.logger and visualizer.vis_backends",
    "resume_from": "load_from with resume=True",
    "fp16": "--opt-level O1 and --loss-scale",
    "dist_params": "env_cfg.dist_cfg",
    "samples_per_gpu": "train_dataloader.batch_size",
    "workers_per_gpu": "train_dataloader.num_workers",
}


@dataclass(frozen=True)
class Rule:
    """One 2.x key.

    Attributes:
        old: dotted key; `*` as its last part matches one or more parts.
        new: where the value goes; `*` is replaced by what it matched.
        convert: changes the value; None keeps it.
        refuse: if given, there is no counterpart, and this says what to do instead.
    """

    old: str
    new: tuple[str, ...] = ()
    convert: Callable[[Any], Any] | None = None
    refuse: str = ""

    def match(self, key: str) -> str | None:
        """What `*` matches ("" if there is no `*`); None if the rule does not match this key."""
        if not self.old.endswith(".*"):
            return "" if key == self.old else None
        stem = self.old[:-1]
        return key[len(stem) :] if key.startswith(stem) and len(key) > len(stem) else None

    def apply(self, rest: str, value: Any) -> Changes:
        """The 3.x keys with their value; `rest` is what `*` matches."""
        value = self.convert(value) if self.convert else value
        return {new.replace("*", rest): value for new in self.new}


def _absolute(value: Any) -> Any:
    """A 2.x path (relative to the current directory), or a list of paths, as 3.x needs it."""
    if isinstance(value, (list, tuple)):
        return type(value)(_absolute(v) for v in value)
    if not isinstance(value, str) or not value or "://" in value or os.path.isabs(value):
        return value
    return os.path.abspath(value)


def _as_list(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _loop_type(value: Any) -> Any:
    return str(value).replace("BasedRunner", "BasedTrainLoop")


def _pretrained(value: Any) -> Any:
    return None if value is None else {"type": "Pretrained", "checkpoint": value}


def _step_policy(value: Any) -> Any:
    if str(value).lower() != "step":
        raise UserError(
            f"--cfg-options lr_config.policy={value}: only the policy 'step' is translated from mmdet 2.x; "
            "write a param_scheduler in the config (CosineAnnealingLR, PolyLR, ...)"
        )
    return "MultiStepLR"


def _dataset_rules(old: str, new: str) -> list[Rule]:
    """Arguments of a 2.x data set."""
    return [
        Rule(f"{old}.ann_file", (f"{new}.ann_file",), _absolute),
        Rule(f"{old}.img_prefix", (f"{new}.data_prefix.img",), _absolute),
        Rule(f"{old}.seg_prefix", (f"{new}.data_prefix.seg",), _absolute),
        Rule(f"{old}.data_root", (f"{new}.data_root",), _absolute),
        Rule(f"{old}.proposal_file", (f"{new}.proposal_file",), _absolute),
        Rule(f"{old}.classes", (f"{new}.metainfo.classes",)),
        Rule(f"{old}.filter_empty_gt", (f"{new}.filter_cfg.filter_empty_gt",)),
    ]


def _data_rules() -> list[Rule]:
    """`data.<split>.*`, and `data.<split>.dataset.*` of a data set inside RepeatDataset."""
    rules = []
    for split in ("train", "val", "test"):
        old, loader = f"data.{split}", f"{split}_dataloader"
        rules += [
            *_dataset_rules(old, f"{loader}.dataset"),
            *_dataset_rules(f"{old}.dataset", f"{loader}.dataset.dataset"),
            Rule(f"{old}.samples_per_gpu", (f"{loader}.batch_size",)),
            Rule(f"{old}.workers_per_gpu", (f"{loader}.num_workers",)),
            Rule(f"{old}.*", (f"{loader}.dataset.*",)),
            Rule(f"data.{loader}.samples_per_gpu", (f"{loader}.batch_size",)),
            Rule(f"data.{loader}.workers_per_gpu", (f"{loader}.num_workers",)),
            Rule(f"data.{loader}.*", (f"{loader}.*",)),
        ]
    return rules


LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
EVALUATORS = ("val_evaluator", "test_evaluator")
NO_COUNTERPART = "has no counterpart in mmdet 3.x; remove it"

RULES = [
    # optimizer and gradient clipping
    Rule("optimizer.paramwise_cfg", ("optim_wrapper.paramwise_cfg",)),
    Rule("optimizer.paramwise_cfg.*", ("optim_wrapper.paramwise_cfg.*",)),
    Rule("optimizer.constructor", ("optim_wrapper.constructor",)),
    Rule("optimizer", ("optim_wrapper.optimizer",)),
    Rule("optimizer.*", ("optim_wrapper.optimizer.*",)),
    Rule("optimizer_config.grad_clip", ("optim_wrapper.clip_grad",)),
    Rule("optimizer_config.grad_clip.*", ("optim_wrapper.clip_grad.*",)),
    Rule("optimizer_config.cumulative_iters", ("optim_wrapper.accumulative_counts",)),
    Rule("grad_clip", ("optim_wrapper.clip_grad",)),
    Rule("grad_clip.*", ("optim_wrapper.clip_grad.*",)),
    Rule("optim_wrapper.grad_clip", ("optim_wrapper.clip_grad",)),
    Rule("optim_wrapper.grad_clip.*", ("optim_wrapper.clip_grad.*",)),
    # data
    Rule("data_root", ("data_root",)),
    Rule("data.samples_per_gpu", ("train_dataloader.batch_size",)),
    Rule("data.workers_per_gpu", tuple(f"{loader}.num_workers" for loader in LOADERS)),
    *_data_rules(),
    # length of the run
    Rule("total_epochs", ("train_cfg.max_epochs",)),
    Rule("runner.max_epochs", ("train_cfg.max_epochs",)),
    Rule("runner.max_iters", ("train_cfg.max_iters",)),
    Rule("runner.type", ("train_cfg.type",), _loop_type),
    Rule("max_step", ("max_iters",)),
    Rule("max_iters", ("max_iters",)),
    # evaluation, checkpoints, log
    Rule("evaluation.interval", ("train_cfg.val_interval",)),
    Rule("evaluation.start", ("train_cfg.val_begin",)),
    Rule("evaluation.save_best", ("default_hooks.checkpoint.save_best",)),
    Rule("evaluation.rule", ("default_hooks.checkpoint.rule",)),
    Rule("evaluation.*", tuple(f"{evaluator}.*" for evaluator in EVALUATORS)),
    Rule("checkpoint_config.create_symlink", refuse=NO_COUNTERPART + ": latest.pth is always made"),
    Rule("checkpoint_config.*", ("default_hooks.checkpoint.*",)),
    Rule("log_config.interval", ("default_hooks.logger.interval",)),
    Rule("log_config.*", refuse="log hooks are visualizer.vis_backends in mmdet 3.x"),
    # learning rate; `_scheduler_places` finds the entries in the config
    Rule("lr_config.policy", ("param_scheduler.<main>.type",), _step_policy),
    Rule("lr_config.step", ("param_scheduler.<main>.milestones",), _as_list),
    Rule("lr_config.gamma", ("param_scheduler.<main>.gamma",)),
    Rule("lr_config.warmup", ("param_scheduler.<warmup>.type",)),
    Rule("lr_config.warmup_iters", ("param_scheduler.<warmup>.end",)),
    Rule("lr_config.warmup_ratio", ("param_scheduler.<warmup>.<ratio>",)),
    Rule("lr_config.*", refuse="write the param_scheduler of the config instead"),
    # precision, weights, environment
    Rule("fp16.loss_scale", ("loss_scale",)),
    Rule("loss_scale", ("loss_scale",)),
    Rule("fp16.*", refuse="use --opt-level O1 and --loss-scale"),
    Rule("resume_from", ("load_from", "resume")),
    Rule("load_from", ("load_from",)),
    Rule("model.pretrained", ("model.backbone.init_cfg",), _pretrained),
    Rule("seed", ("randomness.seed",)),
    Rule("deterministic", ("randomness.deterministic",)),
    Rule("cudnn_benchmark", ("env_cfg.cudnn_benchmark",)),
    Rule("opencv_num_threads", ("env_cfg.mp_cfg.opencv_num_threads",)),
    Rule("mp_start_method", ("env_cfg.mp_cfg.mp_start_method",)),
    Rule("dist_params.*", ("env_cfg.dist_cfg.*",)),
    Rule("workflow", refuse=NO_COUNTERPART + ": validation follows train_cfg.val_interval"),
    Rule("gpu_ids", refuse=NO_COUNTERPART + "; choose devices with --device and --npu-ids"),
    # model settings that early 2.x kept at the top level, where 3.x has the loops
    *(
        Rule(f"{cfg}.{key}", (f"model.{cfg}.{key}",))
        for cfg in ("train_cfg", "test_cfg")
        for key in (
            "rpn.*",
            "rcnn.*",
            "rpn_proposal.*",
            "assigner.*",
            "sampler.*",
            "nms.*",
            "allowed_border",
            "pos_weight",
            "debug",
            "nms_pre",
            "min_bbox_size",
            "score_thr",
            "max_per_img",
        )
    ),
]
WARMUP_TYPES = {"linear": ("LinearLR", "start_factor"), "constant": ("ConstantLR", "factor")}


def translate_v2(options: dict[str, Any], cfg: Any = None) -> tuple[dict[str, Any], list[str]]:
    """Translate the mmdet 2.x keys among `--cfg-options`.

    Args:
        options: dotted key -> value, as parsed from the command line. 3.x keys pass through unchanged.
        cfg: the config of the options, if available, for its data loaders and the order of its `param_scheduler`.
            Without it, the order is mmdet's usual one: entry 0 is the warm-up, entry 1 the main schedule.

    Returns:
        the options with 3.x keys, and one notice per translated key. Keys of `SPECIAL_KEYS` in the result (`data_root`,
        `loss_scale`, `max_iters`) are not config keys but the flags given there.

    Raises:
        UserError: a 2.x key has no counterpart, or two keys set the same thing to different values.
    """
    result: Changes = {}
    notices: list[str] = []
    places = _scheduler_places(options, cfg)
    for key, value in options.items():
        rule, rest = _rule_for(key)
        changes = {key: value} if rule is None else _changes(rule, rest, key, value, places, cfg)
        for new, changed in changes.items():
            if new in result and result[new] != changed:
                raise UserError(f"--cfg-options {key}={value} contradicts another one: {new}={result[new]}")
            result[new] = changed
        if rule is not None and (notice := _notice(key, value, changes)):
            notices.append(notice)
    return result, notices


def reject_v2_file(cfg: Any) -> None:
    """Raise UserError if the config file is written for mmdet 2.x."""
    has = {key for key in cfg if cfg.get(key)}
    data = cfg.get("data")
    if not isinstance(data, dict) or "train" not in data or "train_dataloader" in has:
        return
    if has & {"optimizer", "runner", "total_epochs", "lr_config"}:
        raise UserError(
            "this config file is written for mmdet 2.x (it has data=dict(train=...), optimizer, ... and no "
            "train_dataloader). Start from the 3.x config of the same model instead (mmdet::<folder>/<name>, "
            "for example mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco, or one in configs/), and give your "
            "data with --data-path; single 2.x keys are understood in --cfg-options"
        )


def _rule_for(key: str) -> tuple[Rule | None, str]:
    for rule in RULES:
        rest = rule.match(key)
        if rest is not None:
            return rule, rest
    return None, ""


def _changes(rule: Rule, rest: str, key: str, value: Any, places: dict[str, str], cfg: Any) -> Changes:
    if rule.refuse:
        raise UserError(f"--cfg-options {key}: an mmdet 2.x key; {rule.refuse}")
    if key == "resume_from":
        return {"load_from": value, "resume": value is not None}
    if key == "lr_config.warmup":
        return _warmup_type(value, places)
    changes = {_fill(new, places): changed for new, changed in rule.apply(rest, value).items()}
    changes = {new: changed for new, changed in changes.items() if _has_section(cfg, new)}
    # torch refuses persistent workers if there are none, and mmdet's configs ask for them.
    no_workers = [new for new, changed in changes.items() if new.endswith(".num_workers") and changed == 0]
    return changes | {new.replace(".num_workers", ".persistent_workers"): False for new in no_workers}


def _warmup_type(value: Any, places: dict[str, str]) -> Changes:
    if value not in WARMUP_TYPES:
        raise UserError(
            f"--cfg-options lr_config.warmup={value}: choose {' or '.join(WARMUP_TYPES)}, "
            "or write a param_scheduler in the config"
        )
    return {_fill("param_scheduler.<warmup>.type", places): WARMUP_TYPES[value][0]}


def _has_section(cfg: Any, key: str) -> bool:
    """False for a loader or evaluator that the config does not have."""
    section = key.split(".")[0]
    return cfg is None or section not in (*LOADERS, *EVALUATORS) or bool(cfg.get(section))


def _fill(new: str, places: dict[str, str]) -> str:
    for name, place in places.items():
        new = new.replace(name, place)
    return new


def _scheduler_places(options: dict[str, Any], cfg: Any) -> dict[str, str]:
    """Index of the warm-up and of the main schedule, and the name of the warm-up's first factor."""
    entries = (cfg.get("param_scheduler") if cfg is not None else None) or [{"type": "LinearLR"}, {}]
    entries = entries if isinstance(entries, (list, tuple)) else [entries]
    kinds = [str(entry.get("type", "")) for entry in entries]
    ratios = dict(WARMUP_TYPES.values())
    warmup = next((i for i, kind in enumerate(kinds) if kind in ratios), 0)
    main = next((i for i, kind in enumerate(kinds) if kind == "MultiStepLR"), len(kinds) - 1)
    chosen = options.get("lr_config.warmup")
    kind = WARMUP_TYPES[chosen][0] if chosen in WARMUP_TYPES else kinds[warmup]
    return {"<warmup>": str(warmup), "<main>": str(main), "<ratio>": ratios.get(kind, "start_factor")}


def _notice(key: str, value: Any, changes: Changes) -> str:
    """One line for the log; "" for a key that has the same name in 3.x."""
    if list(changes) == [key] and key not in SPECIAL_KEYS:
        return ""
    targets = ", ".join(
        f"taken as {SPECIAL_KEYS[new]}" if new in SPECIAL_KEYS else _target(new, changed, value)
        for new, changed in changes.items()
    )
    return f"option {key} -> {targets or 'nothing: the config has no such section'}"


def _target(new: str, changed: Any, value: Any) -> str:
    same = type(changed) is type(value) and changed == value
    return new if same else f"{new}={changed}"
