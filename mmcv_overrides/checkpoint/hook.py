"""mmengine's checkpoint hook with safe writing (:mod:`.saving`), safe deletion and an exact resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.runner import BaseLoop, Runner

from mmcv_overrides import run_folder
from mmcv_overrides.checkpoint import position
from mmcv_overrides.checkpoint.links import remove_expired
from mmcv_overrides.checkpoint.missed_validation import MissedValidationHook
from mmcv_overrides.checkpoint.saving import SavingHook
from mmcv_overrides.checkpoint.schedule import keep_config
from mmcv_overrides.checkpoint.weights import bare, state_dict_of
from mmcv_overrides.checkpoint.writing import name_run, remove_leftovers
from mmcv_overrides.dispensable import Dispensable
from mmcv_overrides.errors import UserError
from mmcv_overrides.parallel import on_master
from mmcv_overrides.rendezvous import remember

_RNG_KEY = "rng"


class SafeCheckpointHook(SavingHook):
    """Arguments, file names and times of saving as in mmengine's CheckpointHook. Differences:

    - An old checkpoint is deleted only when the new one is in place, so for a moment there is one more.
    - Weights with inf or nan are not saved but logged; training continues and older checkpoints are kept.
    - A checkpoint that cannot be written ends the run on all ranks with one message.
    - With ``background`` (the default) training goes on while a copy of the state is written; an error of the writer is
      raised at the next iteration of a single process, or at the next checkpoint or the end of the training.
    - A resumed run validates what a killed one had saved and not validated (:class:`.MissedValidationHook`).
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
        self._record: run_folder.Record | None = None
        self._resumed = False
        self._notes = Dispensable("the record of completed validations")
        self._loaded: dict | None = None
        self._locked = False

    # The folder of the run

    def before_run(self, runner: Runner) -> None:
        """Let a hook validate what was missed, once all others are ready."""
        super().before_run(runner)
        runner.register_hook(MissedValidationHook(self))

    def before_train(self, runner: Runner) -> None:
        """Take the work folder and finish a resume."""
        super().before_train(runner)
        self._resumed = self._resumes(runner)
        if self._resumed:  # upstream forgets it, and would not save it again with the best score
            self.last_ckpt = runner.message_hub.get_info("last_ckpt", None)
        self._record = on_master(lambda: self._begin_run(runner))
        self._continue(runner)
        self._random.separate_loader(runner)

    def _begin_run(self, runner: Runner) -> run_folder.Record:
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
        remember("run", record.run)
        name_run(record.run)
        for one in {folder, apart or folder}:
            remove_leftovers(one, record.runs() + (before.runs() if before else []))
        if resumed is not None and self._local:
            remove_expired(out_dir, self.filename_tmpl, list(getattr(self, "keep_ckpt_ids", [])), record)
            self._point_to_resumed(runner, out_dir, before)
        return record

    def _point_to_resumed(self, runner: Runner, out_dir: Path, before: run_folder.Record | None) -> None:
        """Finish what a kill may have interrupted: the links name the checkpoint that this training goes on from."""
        name = Path(str(self.last_ckpt or "")).name
        if name and before is not None and self._loaded is not None and (out_dir / name).is_file():
            link = out_dir / "latest.pth"
            if before.owns(self._loaded["run"], self._loaded["saved_iter"]) and link.resolve().name != name:
                self._point_to_latest(runner, self.file_backend.join_path(self.out_dir, name), name)

    def _resumes(self, runner: Runner) -> bool:
        """Whether the loop is where the loaded checkpoint was: on resume, but not after ``load_from``."""
        loaded = self._loaded
        return (
            loaded is not None
            and loaded["iter"] > 0
            and (runner.epoch, runner.iter) == (loaded["epoch"], loaded["iter"])
        )

    def _keep_folder(self, runner: Runner) -> None:
        """Take the work folder again, on rank 0, if somebody has removed it."""
        if self._record is not None and run_folder.renew(Path(runner.work_dir), self._record):
            text = "was removed or emptied during the training; it is made again, for checkpoints from now on"
            runner.logger.warning(f"{runner.work_dir} {text}")

    def lacks_validation(self, iteration: int) -> bool:
        """Whether this run continues one that is known not to have completed the validation after ``iteration``."""
        known = None if self._record is None else self._record.validated
        return self._resumed and known is not None and iteration not in known

    def note_validation(self, runner: Runner) -> None:
        """Record a completed validation of this training, after the checkpoints that belong to it."""
        if self._record is None:
            return
        done = sorted({*(self._record.validated or ()), runner.iter})
        record = self._record = replace(self._record, validated=done)

        def write() -> None:
            with self._notes.attempt():
                run_folder.write_record(Path(runner.work_dir), record)

        if is_main_process():
            self._writer.after(write)

    def after_run(self, runner: Runner) -> None:
        """Release the work folder."""
        self._record = None
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
        if self._record is not None:
            checkpoint["meta"]["run"] = self._record.run

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


def _name_classes(runner: Runner) -> None:
    """Give the model its class names, by which rows of class layers are matched when weights are loaded."""
    loop = runner._train_loop
    model: Any = bare(runner.model)
    if isinstance(loop, BaseLoop) and getattr(model, "dataset_meta", None) is None:
        model.dataset_meta = getattr(loop.dataloader.dataset, "metainfo", None)
