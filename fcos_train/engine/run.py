"""Train and evaluate: options in, a finished run out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import mmengine.dist as dist
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from fcos_train import progress
from fcos_train.config import of_checkpoint
from fcos_train.config.dataset import checked_data, loader_of_split, point_at_data, use_clear_loading
from fcos_train.config.endurance import IF_ANY
from fcos_train.config.input_sizes import check_input_sizes
from fcos_train.config.launcher import Launchable, launched
from fcos_train.config.load import configured, fill, stem
from fcos_train.config.loaders import set_loaders
from fcos_train.config.needs import TRAINING, make_buildable, require_sections
from fcos_train.config.options import EvalOptions, TrainOptions
from fcos_train.config.packages import missing_packages_named
from fcos_train.config.part_named import parts_named
from fcos_train.config.prepare import prepare, set_visualizer
from fcos_train.config.pretrained import forget_pretrained
from fcos_train.engine import work_dir
from fcos_train.engine.first_step import first_step_named
from fcos_train.engine.memory import memory_explained
from fcos_train.engine.process_state import loaders_closed, process_state_kept
from fcos_train.engine.report_hook import ReportHook
from fcos_train.engine.resources import ResourcesHook
from fcos_train.engine.run_facts import Origin
from fcos_train.engine.runner import build_runner, shown
from fcos_train.engine.same_options import read_alike
from fcos_train.models import describe_norms, use_level_norms
from fcos_train.start import start
from mmcv_overrides import checkpoint as checkpoints
from mmcv_overrides import device, run_folder, signals
from mmcv_overrides.checkpoint.reading import peek
from mmcv_overrides.checkpoint.resume import check_resumable
from mmcv_overrides.dispensable import Dispensable
from mmcv_overrides.errors import UserError
from mmcv_overrides.parallel import leave_process_group, on_master
from mmcv_overrides.printable import printable_lines
from mmcv_overrides.rendezvous import remember, remembered
from mmcv_overrides.stalls import place, stalls_named

FOLDER = "work_dir"  # what a job remembers from one start to the next


def _alone(options: Launchable) -> Launchable:
    """The options of one rank.

    Raises:
        UserError: they ask for what happens before a rank is started (see the command, ``fcos_train.cli.train``).
    """
    if options.devices is not None and options.devices > 1:
        raise UserError(
            f"devices={options.devices}: fcos_train.launch.ranks.run_ranks starts ranks; this is one of them"
        )
    if options.batch_size == "auto":
        raise UserError("batch_size='auto': fcos_train.launch.batch_size.fitting_batch_size(options) finds the number")
    return options


@contextmanager
def _processes(options: TrainOptions | EvalOptions) -> Iterator[tuple[device.Accelerator, str]]:
    """Take the device and join the other ranks, before anything is written; leave them in good order.

    Yields:
        the device and the reason for it.
    """
    accelerator, reason = device.pick(options.device)
    start()
    with (
        device.used(accelerator),
        process_state_kept(torch.device(accelerator.name)),
        checkpoints.trust_checkpoints(options.trust_checkpoint),
    ):
        if isinstance(options, TrainOptions) and options.npu_ids is not None:
            os.environ["NPUID"] = str(options.npu_ids)
        if isinstance(options, TrainOptions):
            os.environ.update(options.deadlines())
        joins = options.launcher != "none" and not dist.is_distributed()
        if joins:
            dist.init_dist(options.launcher)
        elif options.launcher == "none":
            accelerator.set_device(0)
        init_default_scope("mmdet")
        try:
            with stalls_named(), place("preparing the data"):
                yield accelerator, reason
        except signals.Stopped as stopped:
            if joins and stopped.together:
                with suppress(RuntimeError):  # the state is saved; another rank may have been killed since
                    leave_process_group()
            raise
        if joins:  # After an error there is nobody to wait for: the process ends as it is (see __main__).
            leave_process_group()


def _say(lines: list[str]) -> None:
    if dist.is_main_process():
        for line in lines:
            print(printable_lines(line), flush=True)


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


@contextmanager
def _explained(runner: Runner) -> Iterator[None]:
    """Exceptions that a user can do something about are user errors, and say what."""
    with missing_packages_named(), first_step_named(runner), parts_named(runner.cfg), memory_explained(runner):
        yield


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


def _resume_from(wanted: str | None, folder: Path, restarted: bool = False) -> str | None:
    """The checkpoint to resume from; one that is named is looked at before the data are read.

    Args:
        restarted: an earlier start of this job has trained in the folder.

    Raises:
        UserError: there is none to resume from, or none that can be read.
    """
    if restarted or wanted == IF_ANY:
        found = checkpoints.find_latest_checkpoint(str(folder))
        if found is not None or wanted in (None, "auto", IF_ANY):
            _say([] if found else [f"no checkpoint in {folder} yet: this training starts from the beginning"])
            return found
    if wanted != "auto":
        if wanted is not None and "://" not in wanted:
            on_master(lambda: check_resumable(peek(Path(wanted)), wanted))
        return wanted
    newest = on_master(lambda: checkpoints.newest_readable(folder))
    if newest is None:
        raise UserError(f"--resume: no readable checkpoint in {folder}; leave --resume out to start afresh")
    return str(newest)


def _read(options: TrainOptions) -> tuple[Config, tuple[dict[str, Any], list[str]]]:
    """The config with --cfg-options, what these say instead of flags, and lines for the log."""
    cfg, special, notes = configured(options.config, options.cfg_options, options.safe_config)
    require_sections(cfg, options.config, TRAINING)
    return cfg, (special, notes)


def _look_at_weights(given: str | None) -> None:
    """A file of weights that cannot be read is an error before the data are read and the model is built."""
    if given is not None and Path(given).is_file():
        on_master(lambda: bool(peek(Path(given))))


def _claim(
    options: TrainOptions, wanted: Path, given: bool, resume: str | None, before: str | None
) -> tuple[Path, list[str]]:
    """The folder of the training; ``before``: the one in which an earlier start of this job has trained."""
    if before is not None:
        folder, notes = work_dir.claim_again(Path(before))
    else:
        folder, notes = work_dir.claim(wanted, given, resume, options.overwrite)
    remember(FOLDER, str(folder))
    return folder, notes


def train(options: TrainOptions) -> Runner:
    """Train as the options say. What this sets in the process is put back at the end.

    Returns:
        the runner after the last iteration.

    Raises:
        UserError: a fault in the options, the config, the data or a checkpoint; nothing has been trained then.
        Stopped: a signal asked the training to stop; its state is saved. For Ctrl-C a KeyboardInterrupt too.
    """
    progress.choose(options.progress)
    options = launched(_alone(options))
    with signals.handled(), _processes(options) as (accelerator, reason):
        cfg, (special, notes) = read_alike(options, lambda: _read(options))
        origin = Origin(options, cfg.to_dict())
        options = fill(options, special)
        init_default_scope(cfg.get("default_scope", "mmdet"))
        resume = _wanted_resume(options, cfg)
        name = stem(options.config)
        given = options.work_dir or cfg.get("work_dir")
        wanted = Path(given or Path("work_dirs") / name)
        before = on_master(lambda: remembered(FOLDER) if remembered("run") else None)
        with _folder(lambda: _claim(options, wanted, bool(given), resume, before)) as (folder, where):
            _say([*where, reason, *notes])
            _look_at_weights(options.load_from)
            found = _resume_from(resume, folder, before is not None)
            with parts_named(cfg):  # to choose the step, parts of the model are built on trial
                _say(prepare(cfg, options, accelerator, folder, found))
            replaces = options.overwrite and found is None
            stale = work_dir.stale_files(folder, cfg.load_from) if replaces else []
            runner = build_runner(cfg, name)
            _say_norms(runner)
            runner.register_hook(work_dir.ReplaceRunHook(stale))
            runner.register_hook(ResourcesHook())
            if options.report:
                runner.register_hook(ReportHook(origin))
            with _explained(runner), loaders_closed(runner), shown(runner):
                runner.train()
            return runner


def _config_of(options: EvalOptions) -> tuple[str | Config, list[str]]:
    """The config to evaluate with: the given one, ``config.py`` beside the checkpoint, or the one inside it.

    Returns:
        its name, or the config, and lines for the log.
    """
    beside = Path(options.checkpoint).resolve().parent / "config.py"
    if options.config is not None:
        return options.config, []
    if beside.is_file():
        return str(beside), [f"config: {beside} (beside the checkpoint)"]
    state = checkpoints.load(options.checkpoint, trust=options.trust_checkpoint)
    found = of_checkpoint.find(state, options.checkpoint, None, options.trust_checkpoint)
    config = of_checkpoint.for_evaluation(found, options.checkpoint)
    return config, [*found.notes, f"config: that of {options.checkpoint}"]


def _read_for_evaluation(options: EvalOptions, config: str | Config) -> tuple[Config, tuple[dict[str, Any], list[str]]]:
    cfg, special, notes = configured(config, options.cfg_options, options.safe_config)
    require_sections(cfg, options.config or options.checkpoint, ("model", "test_dataloader"))
    return cfg, (special, notes)


def evaluate(options: EvalOptions) -> dict[str, float]:
    """Evaluate a checkpoint on the validation images, or on another split.

    Returns:
        the COCO numbers (``bbox_mAP``, ...).

    Raises:
        UserError: a fault in the options, the config, the data or the checkpoint.
    """
    progress.choose(options.progress)
    options = launched(_alone(options))
    with _processes(options) as (accelerator, reason):
        config, said = _config_of(options)
        _say(said)
        cfg, (special, notes) = read_alike(options, lambda: _read_for_evaluation(options, config))
        origin = Origin(options, cfg.to_dict())
        options = fill(options, special)
        init_default_scope(cfg.get("default_scope", "mmdet"))
        wanted = Path(options.work_dir) if options.work_dir else Path(options.checkpoint).absolute().parent / "eval"
        with _folder(lambda: work_dir.claim_evaluation(wanted)) as (folder, where):
            notes += make_buildable(cfg)
            spec = checked_data(cfg, options, folder)
            if spec is not None:
                notes += [f"data: {line}" for line in spec.report.faults_of(spec.val.name)]
                notes += [f"evaluated on the {spec.val.name} split: {spec.val.ann_file}"] if options.split else []
                notes += point_at_data(cfg, spec)
            else:
                loader_of_split(cfg, options.split)
            notes += use_level_norms(cfg.model)
            use_clear_loading(cfg)
            forget_pretrained(cfg)
            check_input_sizes(cfg)
            cfg["work_dir"] = str(folder)
            notes += _only_test(cfg, options, accelerator)
            cfg["launcher"] = options.launcher
            cfg["load_from"], cfg["resume"] = options.checkpoint, False
            _say([*where, reason, *notes])
            runner = build_runner(cfg, "evaluation")
            report = ReportHook(origin)
            if options.report:
                runner.register_hook(report)
            start = time.perf_counter()
            with _explained(runner), loaders_closed(runner), shown(runner):
                metrics = runner.test()
            on_master(lambda: _require_files(runner))
            runner.logger.info(f"evaluated {options.checkpoint} in {time.perf_counter() - start:.1f} s")
            if options.report:
                report.write(runner)
            return metrics


def _require_files(runner: Runner) -> None:
    """Refuse an evaluation of its own whose results, printed by now, are not in their files."""
    for metric in runner.test_loop.evaluator.metrics:
        files = getattr(metric, "files", None)
        if isinstance(files, Dispensable) and files.fault is not None:
            raise UserError(files.fault)


TRAINING_KEYS = (
    "train_dataloader",
    "train_cfg",
    "optim_wrapper",
    "param_scheduler",
    "val_dataloader",
    "val_cfg",
    "val_evaluator",
    "auto_scale_lr",
)


def _only_test(cfg: Config, options: EvalOptions, accelerator: device.Accelerator) -> list[str]:
    """Leave what an evaluation needs. Returns lines for the log."""
    for key in TRAINING_KEYS:
        cfg[key] = None
    hooks = cfg.setdefault("default_hooks", ConfigDict())
    hooks.pop("checkpoint", None)
    cfg["custom_hooks"] = []
    set_visualizer(cfg, Path(cfg.work_dir), curves=False)
    if options.show_dir:
        hooks["visualization"] = ConfigDict(
            type="DetVisualizationHook", draw=True, test_out_dir=options.show_dir, score_thr=options.show_score_thr
        )
    return set_loaders(cfg, options, accelerator)
