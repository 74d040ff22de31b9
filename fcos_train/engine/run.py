"""Train and evaluate: options in, a finished run out."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import mmengine.dist as dist
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from fcos_train.config.dataset import checked_data, point_at_data, use_clear_loading
from fcos_train.config.load import load_config, stem
from fcos_train.config.options import EvalOptions, TrainOptions, launched
from fcos_train.config.prepare import prepare, set_loaders
from fcos_train.config.pretrained import pretrained_sources
from fcos_train.engine import work_dir
from fcos_train.models import describe_norms, use_level_norms
from fcos_train.start import start
from mmcv_overrides import checkpoint as checkpoints
from mmcv_overrides import device, run_folder
from mmcv_overrides.errors import UserError
from mmcv_overrides.parallel import on_master
from mmcv_overrides.printable import printable_lines

# --cfg-options keys of old scripts that stand for a flag.
FLAG_OF = {"data_root": "data_path", "loss_scale": "loss_scale", "max_iters": "max_iters"}


@contextmanager
def _processes(options: TrainOptions | EvalOptions) -> Iterator[tuple[device.Accelerator, str]]:
    """Take the device and join the other ranks, before anything is written; leave them in good order.

    Yields:
        the device and the reason for it.
    """
    accelerator, reason = device.pick(options.device)
    device.use(accelerator)
    checkpoints.trust_checkpoints(options.trust_checkpoint)
    joins = options.launcher != "none" and not dist.is_distributed()
    if joins:
        dist.init_dist(options.launcher)
    elif options.launcher == "none":
        accelerator.set_device(0)
    start()
    init_default_scope("mmdet")
    yield accelerator, reason
    if joins:
        # Together, so that none closes connections that another still reads. After an error there is nobody to wait
        # for: the process ends as it is (see __main__).
        dist.barrier()
        torch.distributed.destroy_process_group()


def _say(lines: list[str]) -> None:
    if dist.is_main_process():
        for line in lines:
            print(printable_lines(line), flush=True)


def _apply_cfg_options(cfg: Config, options: dict) -> tuple[dict, list[str]]:
    """Translate keys of mmdet 2.x, refuse unknown ones, merge the rest. Returns special options and notices."""
    from fcos_train.config.keys.check import merge_options, translate_v2

    translated, notices = translate_v2(options, cfg)
    special = {FLAG_OF[k]: translated.pop(k) for k in FLAG_OF if k in translated}
    return special, notices + merge_options(cfg, translated)


@contextmanager
def _folder(claim: Callable[[], tuple[Path, list[str]]]) -> Iterator[tuple[Path, list[str]]]:
    """The folder that rank 0 claims, the same on all ranks, and lines for the log; given up at the end."""
    folder, notes = on_master(claim)
    try:
        folder.mkdir(parents=True, exist_ok=True)  # another machine may have a disk of its own
        yield folder, notes
    finally:
        if dist.is_main_process():
            run_folder.release(folder)


def _runner(cfg: Config, name: str) -> Runner:
    from fcos_train.config.keys.check import check_keys
    from fcos_train.engine.runner import DetectionRunner

    check_keys(cfg)
    cfg = Config(cfg.to_dict(), cfg_text=cfg.text, filename="config.py")
    cfg["experiment_name"] = f"{name}_{secrets.token_hex(4)}"  # mmengine hands out loggers and writers by this name
    return DetectionRunner.from_cfg(cfg)


def _say_norms(runner: Runner) -> None:
    lines, warnings = describe_norms(runner.model)
    for line in lines:
        runner.logger.info(line)
    for line in warnings:
        runner.logger.warning(line)


def _wanted_resume(options: TrainOptions, cfg: Config) -> str | None:
    """``auto``, a checkpoint, or None. A config says ``resume=True``, with a checkpoint in ``load_from`` or without."""
    if options.resume is None and cfg.get("resume"):
        return cfg.get("load_from") or "auto"
    return options.resume


def _resume_from(wanted: str | None, folder: Path) -> str | None:
    if wanted != "auto":
        return wanted
    newest = on_master(lambda: checkpoints.newest_readable(folder))
    if newest is None:
        raise UserError(f"--resume: no readable checkpoint in {folder}; leave --resume out to start afresh")
    return str(newest)


def _configured(options: TrainOptions) -> tuple[Config, TrainOptions, list[str]]:
    """The config with ``--cfg-options`` in it, the options with what those said of them, and lines for the log."""
    cfg = load_config(options.config, options.safe_config)
    special, notes = _apply_cfg_options(cfg, options.cfg_options)
    options = replace(options, **{k: v for k, v in special.items() if k != "data_path" or not options.data_path})
    init_default_scope(cfg.get("default_scope", "mmdet"))
    return cfg, options, notes


def train(options: TrainOptions) -> Runner:
    """Train as the options say.

    Returns:
        the runner after the last iteration.

    Raises:
        UserError: a fault in the options, the config, the data or a checkpoint; nothing has been trained then.
    """
    options = launched(options)
    if options.npu_ids is not None:
        os.environ["NPUID"] = str(options.npu_ids)
    with _processes(options) as (accelerator, reason):
        cfg, options, notes = _configured(options)
        resume = _wanted_resume(options, cfg)
        name = stem(options.config)
        wanted = Path(options.work_dir or Path("work_dirs") / name)
        given = options.work_dir is not None
        with _folder(lambda: work_dir.claim(wanted, given, resume, options.overwrite)) as (folder, where):
            _say([*where, reason, *notes])
            _say(prepare(cfg, options, accelerator, folder, _resume_from(resume, folder)))
            stale = work_dir.stale_files(folder, cfg.load_from) if options.overwrite else []
            runner = _runner(cfg, name)
            _say_norms(runner)
            runner.register_hook(work_dir.ReplaceRunHook(stale))
            runner.train()
            return runner


def evaluate(options: EvalOptions) -> dict[str, float]:
    """Evaluate a checkpoint on the validation images.

    Returns:
        the COCO numbers (``bbox_mAP``, ...).

    Raises:
        UserError: a fault in the options, the config, the data or the checkpoint.
    """
    options = launched(options)
    with _processes(options) as (accelerator, reason):
        beside = Path(options.checkpoint).resolve().parent / "config.py"
        name = options.config or (str(beside) if beside.is_file() else None)
        if name is None:
            raise UserError(
                f"no config given, and none beside {options.checkpoint}: name the config it was trained with"
            )
        if options.config is None:
            _say([f"config: {name} (beside the checkpoint)"])
        cfg = load_config(name, options.safe_config)
        special, notes = _apply_cfg_options(cfg, options.cfg_options)
        options = replace(options, data_path=options.data_path or special.get("data_path"))
        init_default_scope(cfg.get("default_scope", "mmdet"))
        wanted = Path(options.work_dir) if options.work_dir else Path(options.checkpoint).absolute().parent / "eval"
        with _folder(lambda: work_dir.claim_evaluation(wanted)) as (folder, where):
            spec = checked_data(cfg, options, folder)
            if spec is not None:
                point_at_data(cfg, spec)
            notes += use_level_norms(cfg.model)
            use_clear_loading(cfg)
            for part in pretrained_sources(cfg):
                part["init_cfg"] = None
            _only_test(cfg, options, accelerator)
            cfg["work_dir"] = str(folder)
            cfg["launcher"] = options.launcher
            cfg["load_from"], cfg["resume"] = options.checkpoint, False
            _say([*where, reason, *notes])
            runner = _runner(cfg, "evaluation")
            start = time.perf_counter()
            metrics = runner.test()
            runner.logger.info(f"evaluated {options.checkpoint} in {time.perf_counter() - start:.1f} s")
            return metrics


def _only_test(cfg: Config, options: EvalOptions, accelerator: device.Accelerator) -> None:
    for key in (
        "train_dataloader",
        "train_cfg",
        "optim_wrapper",
        "param_scheduler",
        "val_dataloader",
        "val_cfg",
        "val_evaluator",
        "auto_scale_lr",
    ):
        cfg[key] = None
    hooks = cfg.setdefault("default_hooks", ConfigDict())
    hooks.pop("checkpoint", None)
    cfg["custom_hooks"] = []
    as_train = TrainOptions(config=str(options.config), workers=options.workers)
    set_loaders(cfg, as_train, accelerator)
    if options.batch_size:
        cfg.test_dataloader["batch_size"] = options.batch_size
    cfg["visualizer"] = ConfigDict(type="DetLocalVisualizer", vis_backends=[])
    if options.show_dir:
        hooks["visualization"] = ConfigDict(
            type="DetVisualizationHook", draw=True, test_out_dir=options.show_dir, score_thr=options.show_score_thr
        )
