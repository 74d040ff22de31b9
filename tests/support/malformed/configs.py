"""Configs with values that no part can be built with, files that are no configs, and programs."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.malformed import CONFIG, Case, Room

# --cfg-options -> what the message must have, the dotted key first
VALUES: tuple[tuple[str, str], ...] = (
    ("model.backbone.depth=19", "model.backbone"),
    ("model.backbone.depth=deep", "model.backbone"),
    ("model.backbone.num_stages=9", "model.backbone"),
    ("model.backbone.base_channels=0", "model.backbone.base_channels"),
    ("model.backbone.out_indices=[7]", "model.backbone"),
    ("model.backbone.norm_cfg.type=XN", "model.backbone"),
    ("model.backbone.type=ResNot", "model.backbone.type: 'ResNot' is not registered"),
    ("model.neck.in_channels=[1,2]", "model.neck"),
    ("model.neck.out_channels=-3", "model.neck.out_channels"),
    ("model.neck.num_outs=0", "model.neck.num_outs"),
    ("model.bbox_head.strides=[]", "model.bbox_head.strides"),
    ("model.bbox_head.strides=[0,0,0,0,0]", "model.bbox_head.strides"),
    ("model.bbox_head.strides=[8,16]", "model.bbox_head"),
    ("model.bbox_head.num_classes=-1", "model.bbox_head.num_classes"),
    ("model.bbox_head.feat_channels=many", "model.bbox_head.feat_channels"),
    ("model.bbox_head.stacked_convs=1.5", "model.bbox_head.stacked_convs"),
    ("model.bbox_head.norm_cfg.num_groups=7", "model.bbox_head"),
    ("model.bbox_head.loss_cls.loss_weight=nan", "model.bbox_head.loss_cls.loss_weight"),
    ("model.bbox_head.loss_bbox.type=NoLoss", "model.bbox_head.loss_bbox (NoLoss)"),
    ("model.data_preprocessor.std=[1,0,1]", "model.data_preprocessor.std"),
    ("model.data_preprocessor.mean=[1,2]", "model.data_preprocessor"),
    ("model.data_preprocessor.pad_size_divisor=0", "model.data_preprocessor.pad_size_divisor"),
    ("model=5", "model is 5, not a dict"),
    ("train_dataloader.batch_size=0", "train_dataloader.batch_size"),
    ("train_dataloader.batch_size=-2", "train_dataloader.batch_size"),
    ("train_dataloader.batch_size=1.5", "train_dataloader.batch_size"),
    ("train_dataloader.batch_size=four", "train_dataloader.batch_size"),
    ("train_dataloader.batch_size=1000000000", "train_dataloader.batch_size"),
    ("train_dataloader.num_workers=-1", "train_dataloader.num_workers"),
    ("train_dataloader.sampler.type=NoSampler", "train_dataloader.sampler.type"),
    ("train_dataloader.dataset.pipeline=[]", "train_dataloader.dataset.pipeline"),
    ("train_dataloader.dataset.pipeline.2.scale=[0,0]", "train_dataloader.dataset.pipeline.2.scale"),
    ("train_dataloader.dataset.pipeline.2.scale=[-5,80]", "train_dataloader.dataset.pipeline.2.scale"),
    ("train_dataloader.dataset.pipeline.2.scale=wide", "train_dataloader.dataset.pipeline.2.scale"),
    ("train_dataloader.dataset.pipeline.3.prob=7", "train_dataloader.dataset.pipeline.3"),
    ("train_cfg.max_epochs=0", "train_cfg.max_epochs"),
    ("train_cfg.max_epochs=nan", "train_cfg.max_epochs"),
    ("train_cfg.max_epochs=long", "train_cfg.max_epochs"),
    ("train_cfg.val_interval=0", "train_cfg.val_interval"),
    ("train_cfg.type=NoLoop", "train_cfg"),
    ("optim_wrapper.optimizer.lr=nan", "optim_wrapper.optimizer.lr"),
    ("optim_wrapper.optimizer.lr=inf", "optim_wrapper.optimizer.lr"),
    ("optim_wrapper.optimizer.lr=-1", "optim_wrapper.optimizer.lr"),
    ("optim_wrapper.optimizer.lr=fast", "optim_wrapper.optimizer.lr"),
    ("optim_wrapper.optimizer.lr=None", "optim_wrapper.optimizer.lr"),
    ("optim_wrapper.optimizer.momentum=-0.9", "optim_wrapper.optimizer"),
    ("optim_wrapper.optimizer.weight_decay=nan", "optim_wrapper.optimizer.weight_decay"),
    ("optim_wrapper.optimizer.type=NoSGD", "optim_wrapper.optimizer.type"),
    ("optim_wrapper.type=NoWrapper", "optim_wrapper.type"),
    ("optim_wrapper.accumulative_counts=0", "optim_wrapper.accumulative_counts"),
    ("optim_wrapper.clip_grad.max_norm=-1", "optim_wrapper.clip_grad.max_norm"),
    ("optim_wrapper.clip_grad.max_norm=nan", "optim_wrapper.clip_grad.max_norm"),
    ("optim_wrapper.paramwise_cfg.bias_lr_mult=nan", "optim_wrapper.paramwise_cfg.bias_lr_mult"),
    ("param_scheduler.0.start_factor=7", "param_scheduler.0.start_factor"),
    ("param_scheduler.0.end=-5", "param_scheduler.0.end"),
    ("param_scheduler.1.type=NoLR", "param_scheduler.1.type"),
    ("param_scheduler=fast", "param_scheduler is 'fast', not a list"),
    ("default_hooks.checkpoint.interval=0", "default_hooks.checkpoint.interval"),
    ("default_hooks.checkpoint.interval=often", "default_hooks.checkpoint.interval"),
    ("default_hooks.checkpoint.max_keep_ckpts=0", "default_hooks.checkpoint.max_keep_ckpts"),
    ("default_hooks.logger.interval=0", "default_hooks.logger.interval"),
    ("custom_hooks=[5]", "custom_hooks.0 is 5, not a dict"),
    ("custom_hooks.0.type=NoHook", "custom_hooks"),
    ("auto_scale_lr.base_batch_size=0", "auto_scale_lr.base_batch_size"),
    ("randomness.seed=-1", "randomness.seed"),
    ("env_cfg.mp_cfg.mp_start_method=teleport", "env_cfg.mp_cfg.mp_start_method"),
    ("log_level=LOUD", "log_level"),
    ("load_from=5", "load_from"),
)
V2 = """
model = dict(type='FCOS', backbone=dict(type='ResNet', depth=18), neck=dict(type='FPN'),
    bbox_head=dict(type='FCOSHead'))
data = dict(samples_per_gpu=2, train=dict(type='CocoDataset', ann_file='a.json', img_prefix='a',
    pipeline=[dict(type='LoadImageFromFile')]))
optimizer = dict(type='SGD', lr=0.1)
"""
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
# name -> (ending, text with {mark} for the marker, what the message must have)
FILES: dict[str, tuple[str, str, str]] = {
    "calls sys.exit": (".py", f"_base_ = '{CONFIG}.py'\nimport sys\nsys.exit(0)\n", "case.py"),
    "raises SystemExit with a text": (".py", "raise SystemExit('bye')\n", "case.py"),
    "ends in the middle of a line": (".py", "model = dict(type='FCOS',\n", "case.py"),
    "divides by zero": (".py", "model = 1 / 0\n", "case.py"),
    "is empty": (".py", "", "case.py"),
    "has no model": (".py", "train_cfg = dict(max_epochs=1)\n", "has no model"),
    "is based on an absent file": (".py", "_base_ = 'absent.py'\n", "absent.py"),
    "is based on itself": (".py", "_base_ = 'case.py'\n", "case.py"),
    "is no text": (".py", "\x00\x01\x02", "case.py"),
    "is of mmdet 2.x and has no num_classes": (".py", V2, "model.bbox_head"),
    "is a YAML alias bomb": (".yaml", BOMB, "aliases repeat over"),
    "is YAML with a tag that calls": (".yaml", "a: !!python/object/apply:builtins.open ['{mark}', 'w']\n", "line 1"),
    "is damaged YAML": (".yaml", "a: [1, 2\nb: }\n", "cannot be read as YAML"),
    "is a YAML list": (".yaml", "- 1\n- 2\n", "case.yaml"),
    "is damaged JSON": (".json", '{"model": ', "case.json"),
    "is JSON nested too deeply": (".json", "[" * 100_000, "case.json"),
    "is of another kind": (".txt", "hello", "case.txt"),
}
SAFE: dict[str, str] = {
    "runs a program": "open('{mark}', 'w')\n",
    "imports os": "import os\nmodel = dict()\n",
    "names os.system": "model = dict(type='os.system', command='touch {mark}')\n",
}


def _option(option: str) -> Callable[[Room], list[str]]:
    return lambda room: room.train("--cfg-options", option)


def _file(ending: str, text: str, *words: str) -> Callable[[Room], list[str]]:
    def command(room: Room) -> list[str]:
        path = room.folder / f"case{ending}"
        path.write_text(text.replace("{mark}", str(room.marker)))
        return room.train(*words, config=path)

    return command


CASES = [
    *(Case(f"config value {option}", _option(option), (says,)) for option, says in VALUES),
    *(Case(f"config that {name}", _file(end, text), (says,)) for name, (end, text, says) in FILES.items()),
    *(
        Case(f"safe config that {name}", _file(".py", text, "--safe-config"), ("case.py",))
        for name, text in SAFE.items()
    ),
]
