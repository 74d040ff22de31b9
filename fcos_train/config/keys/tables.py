"""Tables of the key check: valid names by section of a config, and the kinds of `type=` dictionaries."""

from dataclasses import dataclass, field

from fcos_train.config.keys.forms import DICTS, EITHER, LISTS

# What mmengine's Runner.from_cfg, mmdet's tools and this trainer read from the top level of a config.
TOP_LEVEL = frozenset(
    {
        *DICTS,
        *LISTS,
        *EITHER,
        "work_dir",
        "data_preprocessor",
        "load_from",
        "resume",
        "launcher",
        "log_processor",
        "log_level",
        "default_scope",
        "experiment_name",
        "runner_type",
        "custom_imports",
        "find_unused_parameters",
        "model_wrapper_cfg",
        "sync_bn",
        "compile",
        "activation_checkpointing",
        "strategy",
        "tta_model",
        "tta_pipeline",
        "backend_args",
        "vis_backends",
    }
)
# Common variables of mmdet's config files; similar user-defined names are not reported.
USUAL_VARIABLES = frozenset(
    {
        "_base_",
        "dataset_type",
        "data_root",
        "train_pipeline",
        "test_pipeline",
        "val_pipeline",
        "img_scales",
        "img_scale",
        "image_size",
        "max_epochs",
        "max_iters",
        "num_classes",
        "metainfo",
        "file_client_args",
        "norm_cfg",
    }
)
# Keys that mmengine itself removes from a dictionary before it builds the object.
META_KEYS = frozenset({"type", "_scope_", "_delete_"})
OUR_PACKAGES = ("mmdet", "mmcv", "mmengine", "fcos_train", "mmcv_overrides")

PARAMWISE_KEYS = frozenset(
    {
        "custom_keys",
        "bias_lr_mult",
        "bias_decay_mult",
        "norm_decay_mult",
        "dwconv_decay_mult",
        "flat_decay_mult",
        "dcn_offset_lr_mult",
        "bypass_duplicate",
    }
)
ENV_KEYS = frozenset({"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"})
DEFAULT_HOOK_NAMES = frozenset(
    {"runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint", "visualization"}
)
# What mmdet's heads read from a model's train_cfg and test_cfg. These may have any key, so only a misspelling of one of
# these names is a fault.
MODEL_CFG_NAMES = frozenset(
    {
        "assigner",
        "sampler",
        "bbox_coder",
        "allowed_border",
        "pos_weight",
        "debug",
        "rpn",
        "rpn_proposal",
        "rcnn",
        "nms_pre",
        "nms_post",
        "min_bbox_size",
        "score_thr",
        "nms",
        "max_per_img",
        "max_per_image",
        "mask_thr_binary",
        "mask_size",
        "center_sampling",
        "multi_label",
        "initial_assigner",
        "alpha",
        "beta",
        "iou_threshold",
    }
)


@dataclass(frozen=True)
class Kind:
    """One kind of `type=` dictionary.

    Attributes:
        registries: names of the registries, as in `mmdet.registry`.
        children: key -> kind of the dictionaries below it; "*" for any other key.
        extra: keys that are removed before the object is built.
        certain: an unregistered type is always a fault (otherwise only under the keys of `_is_component`).
        hints: see `Site`.
    """

    registries: tuple[str, ...]
    children: dict[str, str | None] = field(default_factory=dict)
    extra: frozenset[str] = frozenset()
    certain: bool = True
    hints: dict[str, str] = field(default_factory=dict)


KINDS = {
    "model": Kind(
        ("MODELS", "TASK_UTILS"),
        {"init_cfg": "init", "norm_cfg": "norm", "*": "model"},
        certain=False,
    ),
    "norm": Kind(("MODELS",), extra=frozenset({"requires_grad"}), certain=False),
    "init": Kind(("WEIGHT_INITIALIZERS",), {"override": "init"}, frozenset({"override", "name", "layer"})),
    "dataset": Kind(
        ("DATASETS",),
        {"dataset": "dataset", "datasets": "dataset", "pipeline": "transform"},
        hints={"img_prefix": "data_prefix", "classes": "metainfo"},
    ),
    "transform": Kind(
        ("TRANSFORMS",),
        {"transforms": "transform"},
        hints={"img_scale": "scale", "flip_ratio": "prob", "multiscale_mode": "scale"},
    ),
    "sampler": Kind(("DATA_SAMPLERS",)),
    "function": Kind(("FUNCTIONS",)),
    "hook": Kind(("HOOKS",), {"switch_pipeline": "transform"}, frozenset({"priority"})),
    "scheduler": Kind(
        ("PARAM_SCHEDULERS",),
        extra=frozenset({"convert_to_iter_based"}),
        hints={"step": "milestones", "warmup_iters": "end", "warmup_ratio": "start_factor"},
    ),
    "optimizer": Kind(("OPTIMIZERS",)),
    "metric": Kind(("METRICS",)),
    "evaluator": Kind(("EVALUATOR",), {"metrics": "metric"}),
    "visualizer": Kind(("VISUALIZERS",), {"vis_backends": "vis_backend"}),
    "vis_backend": Kind(("VISBACKENDS",)),
    "log_processor": Kind(("LOG_PROCESSORS",)),
    "loop": Kind(("LOOPS",), extra=frozenset({"by_epoch"}), hints={"total_epochs": "max_epochs"}),
}
OPTIM_WRAPPER_HINTS = {
    "grad_clip": "clip_grad",
    "paramwise_options": "paramwise_cfg",
    "cumulative_iters": "accumulative_counts",
}
DATALOADER_HINTS = {"samples_per_gpu": "batch_size", "workers_per_gpu": "num_workers"}
