"""mmengine's checkpoint hook with safe writing, safe deletion and an exact resume."""

from __future__ import annotations

import os
import shutil
from collections import deque
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import BaseLoop, Runner

from mmcv_overrides import run_folder
from mmcv_overrides.checkpoint import position
from mmcv_overrides.checkpoint.mmengine_functions import is_local
from mmcv_overrides.checkpoint.rng import RandomStates
from mmcv_overrides.checkpoint.schedule import keep_config
from mmcv_overrides.checkpoint.weights import bare, state_dict_of
from mmcv_overrides.checkpoint.writing import NonFiniteWeights, name_run, remove_leftovers, temporary_suffix
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import replacing, sync_folder, unguessable
from mmcv_overrides.parallel import on_master
from mmcv_overrides.rendezvous import remember
from mmcv_overrides.stalls import place
from mmcv_overrides.timer import paused

_RNG_KEY = "rng"
KEPT_BETWEEN, _BETWEEN = 2, "checkpoints_between"


class SafeCheckpointHook(CheckpointHook):
    """Arguments, file names and times of saving as in mmengine's CheckpointHook. Differences:

    - An old checkpoint is deleted only when the new one is in place, so for a moment there is one more.
    - Weights with inf or nan are not saved but logged; training continues and older checkpoints are kept.
    - A checkpoint that cannot be written ends the run on all ranks with one message.
    - ``latest.pth`` beside the checkpoints is a link to the newest. ``last_checkpoint`` has its path, as mmengine reads
      it; in a copy of the folder the file of that name counts.
    - Checkpoints have the id of their run, and the work folder is locked while a run writes to it
      (:mod:`mmcv_overrides.run_folder`).
    - The random states of all ranks are saved and restored on resume (:class:`.rng.RandomStates`).
    - Resuming a checkpoint of another model shape is an error.
    - Schedulers resume with the settings of the config (``end``, milestones, ...), not with those of the checkpoint.

    ``meta.iter`` is the number of finished iterations. ``meta.epoch`` is the number of finished epochs when saving by
    epoch, and the index of the current epoch when saving by iteration (at the end of an epoch one less than
    iter // length).
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._random = RandomStates()
        self._loaded: dict | None = None
        self._partial = False
        self._run: str | None = None
        self._locked = False

    # The folder of the run

    def before_train(self, runner: Runner) -> None:
        """Take the work folder and finish a resume."""
        super().before_train(runner)
        on_master(lambda: self._begin_run(runner))
        self._continue(runner)
        self._random.separate_loader(runner)

    def _begin_run(self, runner: Runner) -> None:
        """Lock the work folder, record the run in it, and remove the temporary files of killed predecessors.

        Raises:
            Occupied: another run writes to the folder.
        """
        folder, out_dir = Path(runner.work_dir), Path(self.out_dir)
        self._locked = run_folder.hold(folder)
        before = run_folder.read_record(folder)
        apart = out_dir if self._local and out_dir.resolve() != folder.resolve() else None
        loaded = self._loaded
        resumed = (loaded["run"], loaded["saved_iter"]) if loaded is not None and self._resumes(runner) else None
        record = run_folder.begin(folder, resumed, apart)
        self._run = record.run
        remember("run", record.run)
        name_run(record.run)
        for one in {folder, apart or folder}:
            remove_leftovers(one, record.runs() + (before.runs() if before else []))

    def _resumes(self, runner: Runner) -> bool:
        """Whether the loop is where the loaded checkpoint was: on resume, but not after ``load_from``."""
        loaded = self._loaded
        return (
            loaded is not None
            and loaded["iter"] > 0
            and (runner.epoch, runner.iter) == (loaded["epoch"], loaded["iter"])
        )

    def after_run(self, runner: Runner) -> None:
        """Release the work folder."""
        if self._locked:
            run_folder.release(Path(runner.work_dir))

    # Resuming

    def _continue(self, runner: Runner) -> None:
        """Finish a resume, after which the loop is where the loaded checkpoint was; nothing after ``load_from``."""
        resumes, loaded, self._loaded = self._resumes(runner), self._loaded, None
        if not resumes or loaded is None:
            return
        self._check_same_shapes(runner, loaded["shapes"])
        loaded["schedule"].catch_up()
        if loaded["schedule"].settings:
            settings = ", ".join(loaded["schedule"].settings)
            runner.logger.warning(f"resumed with the schedule of this config: {settings}")
        self._random.resume(runner, loaded["rng"])

    def _check_same_shapes(self, runner: Runner, shapes: dict[str, torch.Size]) -> None:
        other = [n for n, p in bare(runner.model).state_dict().items() if n in shapes and shapes[n] != p.shape]
        if other:
            raise UserError(
                f"cannot resume: {len(other)} tensors have another shape in the checkpoint ({', '.join(other[:3])}). "
                "To start a new training from its weights use load_from",
                setting="load_from",
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed the loader of this epoch."""
        self._partial = False
        self._random.begin_epoch(runner)

    def before_val(self, runner: Runner) -> None:
        """Remember the random states."""
        self._random.begin_validation(runner)

    def after_val(self, runner: Runner) -> None:
        """Put back the random states."""
        self._random.end_validation(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the position in images, the random states and the id of the run."""
        epochs = position.Epochs.of(runner)
        if epochs is not None:
            meta = checkpoint["meta"]
            meta[position.KEY] = epochs.position(meta["epoch"], meta["iter"])
        states = self._random.take(runner)
        if states is not None:
            checkpoint[_RNG_KEY] = states
        if self._run is not None:
            checkpoint["meta"]["run"] = self._run

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keep what a resume needs, and put the config's settings into the states of the schedulers."""
        _name_classes(runner)
        saved_iter = (checkpoint.get("meta") or {}).get("iter", 0)
        if getattr(runner, "_resume", False):
            self._move(runner, checkpoint)
        schedule = keep_config(runner.param_schedulers, checkpoint.get("param_schedulers"))
        meta = checkpoint.get("meta") or {}
        self._loaded = {
            "epoch": meta.get("epoch", 0),
            "iter": meta.get("iter", 0),
            "saved_iter": saved_iter,
            "run": str(meta.get("run", "")),
            "rng": checkpoint.get(_RNG_KEY),
            "schedule": schedule,
            "shapes": {k: v.shape for k, v in state_dict_of(checkpoint).items() if isinstance(v, torch.Tensor)},
        }

    def _move(self, runner: Runner, checkpoint: dict) -> None:
        """Continue at the same image where an epoch has other steps than in the checkpoint."""
        epochs = position.Epochs.of(runner)
        moved = None if epochs is None else position.move(checkpoint["meta"], epochs)
        if moved is None:
            return
        checkpoint["meta"] |= {"epoch": moved.epoch, "iter": moved.iteration}
        position.move_schedulers(checkpoint.get("param_schedulers"), runner.param_schedulers, moved.ratio)
        runner.logger.warning(moved.line())
        factor = position.rescale_rates(checkpoint, runner) if moved.old_batch != moved.batch else None
        if factor is not None:
            runner.logger.warning(f"learning rate times {factor:g}, because a step has other images than before")

    # Saving

    @property
    def _local(self) -> bool:
        return is_local(self.out_dir, self.file_client_args, self.backend_args)

    def after_partial_epoch(self, runner: Runner) -> None:
        """Save the last state as iter_N.pth if the loop stops in mid-epoch (``max_iters``)."""
        if self.by_epoch and self.save_last:
            self._partial = True
            self._save_last(runner, self._name(runner.epoch, runner), meta=dict(epoch=runner.epoch, iter=runner.iter))

    def save_between(self, runner: Runner) -> bool:
        """Save ``iter_N.pth`` after the iteration that has just ended, in the course of an epoch; keep the newest two.

        To be called on all ranks by hooks in ``after_train_iter``. Returns whether it was saved.
        """
        iteration = runner.iter + 1
        name = f"iter_{iteration}.pth"
        if not self._save_last(runner, name, meta=dict(epoch=runner.epoch, iter=iteration), by_epoch=False):
            return False
        kept = [*runner.message_hub.get_info(_BETWEEN, []), name]
        kept = list(dict.fromkeys(kept))
        for old in kept[:-KEPT_BETWEEN]:
            self._remove(self.file_backend.join_path(self.out_dir, old))
        runner.message_hub.update_info(_BETWEEN, kept[-KEPT_BETWEEN:])
        return True

    def _name(self, step: int, runner) -> str:
        return f"iter_{runner.iter}.pth" if self._partial else self.filename_tmpl.format(step)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        if self._partial:
            self._save_last(runner, self._name(step, runner), meta)
            return
        kept = list(getattr(self, "keep_ckpt_ids", []))
        expired = self._enlist(runner, step)
        if self._save_last(runner, self._name(step, runner), meta):
            for old in expired:
                self._remove(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old)))
        else:
            self._set_kept(runner, kept)

    def _save_last(self, runner: Runner, name: str, meta: dict, by_epoch: bool | None = None) -> bool:
        before = self.last_ckpt
        self._set_last(runner, self.file_backend.join_path(self.out_dir, name))
        options = dict(save_optimizer=self.save_optimizer, save_param_scheduler=self.save_param_scheduler)
        by_epoch = self.by_epoch if by_epoch is None else by_epoch
        if self._save(runner, name, meta=meta, by_epoch=by_epoch, **options, **self.args):
            self._point_to_latest(runner, name)
            return True
        self._set_last(runner, before)
        return False

    def _save(self, runner: Runner, name: str, **kwargs: Any) -> bool:
        """Save on rank 0; the same result or error on all ranks. False: skipped, the weights are not finite."""
        with place(f"saving {name}"):
            self._random.gather(runner)
        backend = dict(file_client_args=self.file_client_args, backend_args=self.backend_args)
        # Saving does not count as training time; during validation the clock is paused already.
        clock = paused() if not self._random.in_validation else nullcontext()
        try:
            with clock, place(f"saving {name}"):
                on_master(lambda: runner.save_checkpoint(self.out_dir, name, **backend, **kwargs))
        except NonFiniteWeights as error:
            runner.logger.error(f"checkpoint {name} skipped: {error}")
            return False
        finally:
            self._random.discard()
        return True

    def _enlist(self, runner: Runner, step: int) -> list[int]:
        """Add ``step`` to the checkpoints to keep; returns those to delete after it is saved."""
        if self.max_keep_ckpts <= 0:
            return []
        ids = [i for i in self.keep_ckpt_ids if i != step] + [step]
        self._set_kept(runner, ids[-self.max_keep_ckpts :])
        return ids[: -self.max_keep_ckpts]

    def _set_kept(self, runner: Runner, ids: list[int]) -> None:
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids: deque[int] = deque(ids, self.max_keep_ckpts)
            runner.message_hub.update_info("keep_ckpt_ids", list(ids))

    def _set_last(self, runner: Runner, path: str | None) -> None:
        self.last_ckpt = path
        runner.message_hub.update_info("last_ckpt", path)

    def _remove(self, path: str) -> bool:
        if not is_main_process() or not self.file_backend.isfile(path):
            return False
        self.file_backend.remove(path)
        return True

    def _point_to_latest(self, runner: Runner, name: str) -> None:
        """Write ``last_checkpoint`` (mmengine's text file, in the work folder) and ``latest.pth``."""
        if not is_main_process():
            return
        with replacing(Path(runner.work_dir) / "last_checkpoint", temporary_suffix()) as file:
            file.write(str(self.last_ckpt).encode())
        if self._local:
            point_latest(Path(self.out_dir), name)

    # The best one

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self.save_best:
            return
        if "auto" in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        step = runner.epoch if self.by_epoch else runner.iter
        meta = dict(epoch=runner.epoch, iter=runner.iter)
        pairs = zip(self.key_indicators, self.rules, strict=True)
        updated = [self._save_if_better(runner, key, rule, metrics, step, dict(meta)) for key, rule in pairs]
        if any(updated) and self.last_ckpt is not None:  # again, with the best score in it
            self._save_checkpoint_with_step(runner, step, meta)

    def _save_if_better(self, runner: Runner, key: str, rule: str, metrics: dict, step: int, meta: dict) -> bool:
        if key not in metrics:
            raise UserError(
                f"save_best={key!r} is not a metric of this evaluation; it has: {', '.join(map(str, metrics))}"
            )
        single = len(self.key_indicators) == 1
        score_key, path_key = ("best_score", "best_ckpt") if single else (f"best_score_{key}", f"best_ckpt_{key}")
        hub, score = runner.message_hub, metrics[key]
        best = hub.get_info(score_key, self.init_value_map[rule])
        if score is None or not self.is_better_than[key](score, best):
            return False
        name = f"best_{key}_{self._name(step, runner)}".replace("/", "_")
        new, old = self.file_backend.join_path(self.out_dir, name), self._best_path(key, single)
        known = {k: hub.get_info(k) for k in (score_key, path_key) if k in hub.runtime_info}
        hub.update_info_dict({score_key: score, path_key: new})
        if not self._save(runner, name, meta=meta, save_optimizer=False, save_param_scheduler=False, by_epoch=False):
            for k in (score_key, path_key):
                hub.update_info(k, known[k]) if k in known else hub.pop_info(k)
            return False
        self._set_best_path(key, single, new)
        if old and old != new and self._remove(old):
            runner.logger.info(f"The previous best checkpoint {old} is removed")
        unit = "epoch" if self.by_epoch else "iter"
        runner.logger.info(f"The best checkpoint with {score:0.4f} {key} at {step} {unit} is saved to {name}.")
        return True

    def _best_path(self, key: str, single: bool) -> str | None:
        return self.best_ckpt_path if single else self.best_ckpt_path_dict.get(key)

    def _set_best_path(self, key: str, single: bool, path: str) -> None:
        if single:
            self.best_ckpt_path = path
        else:
            self.best_ckpt_path_dict[key] = path


def point_latest(folder: Path, name: str) -> None:
    """Atomically make ``folder/latest.pth`` a relative link to ``name``, or a copy where links are not supported."""
    latest = folder / "latest.pth"
    link = unguessable(latest, temporary_suffix())
    try:
        os.symlink(name, link)
    except OSError:
        with open(folder / name, "rb") as source, replacing(latest, temporary_suffix()) as copy:
            shutil.copyfileobj(source, copy)
    else:
        os.replace(link, latest)
        sync_folder(folder)


def _name_classes(runner: Runner) -> None:
    """Give the model its class names, by which rows of class layers are matched when weights are loaded."""
    loop = runner._train_loop
    model: Any = bare(runner.model)
    if isinstance(loop, BaseLoop) and getattr(model, "dataset_meta", None) is None:
        model.dataset_meta = getattr(loop.dataloader.dataset, "metainfo", None)
