"""How checkpoints are written during a training: in the background, with their links and deletions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from mmcv_overrides.checkpoint.background import BackgroundWriter
from mmcv_overrides.checkpoint.links import point_latest
from mmcv_overrides.checkpoint.mmengine_functions import is_local
from mmcv_overrides.checkpoint.rng import RandomStates
from mmcv_overrides.checkpoint.writing import NonFiniteWeights, temporary_suffix
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import replacing, written
from mmcv_overrides.parallel import on_master
from mmcv_overrides.stalls import place
from mmcv_overrides.stopping import Stop
from mmcv_overrides.timer import paused

_STOPPED = "ckpt_of_stop"  # in the message hub
KEPT_BETWEEN, _BETWEEN = 2, "checkpoints_between"


class SavingHook(CheckpointHook):
    """The part of :class:`.hook.SafeCheckpointHook` that writes.

    Args:
        background: whether training goes on while a copy of the state is written.
    """

    def __init__(self, *args: Any, background: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.background = background
        self._writer = BackgroundWriter()
        self._random = RandomStates()
        self._partial = False
        self._saved_at: tuple[int, int] | None = None

    def _keep_folder(self, runner: Runner) -> None:
        """Called on rank 0 before a checkpoint is written."""

    @property
    def _local(self) -> bool:
        return is_local(self.out_dir, self.file_client_args, self.backend_args)

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Save by iteration."""
        if get_world_size() == 1:  # several ranks must end together
            self._writer.raise_error()
        super().after_train_iter(runner, *args, **kwargs)

    def after_train(self, runner: Runner) -> None:
        """Wait for the last checkpoint, and publish it."""
        self.finish()
        super().after_train(runner)

    def finish(self) -> None:
        """Wait until everything is written; call it on all ranks. Raises UserError if something could not be."""
        with place("saving"):
            on_master(self._writer.close)

    def after_partial_epoch(self, runner: Runner) -> None:
        """Save the last state as iter_N.pth if the loop stops in mid-epoch (``max_iters``)."""
        if self.by_epoch and self.save_last:
            self._partial = True
            self._save_last(runner, self._name(runner.epoch, runner), meta=dict(epoch=runner.epoch, iter=runner.iter))

    def before_stop(self, runner: Runner, stop: Stop) -> None:
        """Save the state as iter_N.pth before a signal ends the training, unless the newest checkpoint has it."""
        if self._save_now(runner):
            self.finish()
            stop.saved = self.last_ckpt

    def before_failure(self, runner: Runner) -> None:
        """Save the state of the steps so far as iter_N.pth before a fault of the data ends the training."""
        if self._save_now(runner):
            self.finish()
            runner.logger.info(f"saved {self.last_ckpt} after {runner.iter} iterations; --resume continues from there")

    def _save_now(self, runner: Runner) -> bool:
        """Save in mid-epoch, unless the newest checkpoint has this state already. Returns whether one has it."""
        if self._saved_at == (runner.epoch, runner.iter):
            return True
        name = f"iter_{runner.iter}.pth"
        runner.message_hub.update_info(_STOPPED, name)
        self._partial = True
        return self._save_last(runner, name, meta=dict(epoch=runner.epoch, iter=runner.iter))

    def save_between(self, runner: Runner) -> bool:
        """Save ``iter_N.pth`` after the iteration that has just ended, in the course of an epoch; keep the newest two.

        To be called on all ranks by hooks in ``after_train_iter``. Returns whether it was saved.
        """
        iteration = runner.iter + 1
        name = f"iter_{iteration}.pth"
        before = runner.message_hub.get_info(_BETWEEN, [])
        kept = list(dict.fromkeys([*before, name]))
        meta = dict(epoch=runner.epoch, iter=iteration)
        runner.message_hub.update_info(_BETWEEN, kept[-KEPT_BETWEEN:])  # a run that resumes it removes it in its turn
        if self._save_last(runner, name, meta, kept[:-KEPT_BETWEEN], by_epoch=False):
            return True
        runner.message_hub.update_info(_BETWEEN, before)
        return False

    def _name(self, step: int, runner) -> str:
        return f"iter_{runner.iter}.pth" if self._partial else self.filename_tmpl.format(step)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        if self._partial:
            self._save_last(runner, self._name(step, runner), meta)
            return
        kept = list(getattr(self, "keep_ckpt_ids", []))
        expired = self._enlist(runner, step)
        name = self._name(step, runner)
        names = [*map(self.filename_tmpl.format, expired), *self._after_stop(runner, name)]
        if self._save_last(runner, name, meta, names):
            runner.message_hub.update_info(_STOPPED, "")
        else:
            self._set_kept(runner, kept)

    def _save_last(
        self, runner: Runner, name: str, meta: dict, expired: Sequence[str] = (), by_epoch: bool | None = None
    ) -> bool:
        before = self.last_ckpt
        path = self.file_backend.join_path(self.out_dir, name)
        self._set_last(runner, path)
        options = dict(save_optimizer=self.save_optimizer, save_param_scheduler=self.save_param_scheduler)

        def then() -> None:
            self._point_to_latest(runner, path, name)
            for old in expired:
                self._remove(self.file_backend.join_path(self.out_dir, old))

        by_epoch = self.by_epoch if by_epoch is None else by_epoch
        if self._save(runner, name, then, meta=meta, by_epoch=by_epoch, **options, **self.args):
            self._saved_at = meta["epoch"], meta["iter"]
            return True
        self._set_last(runner, before)
        return False

    def _save(self, runner: Runner, name: str, then: Callable[[], object], **kwargs: Any) -> bool:
        """Save on rank 0; the same result or error on all ranks. False: skipped, the weights are not finite.

        Args:
            then: what follows on rank 0 once the file is written.
        """
        with place(f"saving {name}"):
            self._random.gather(runner)
        # Saving does not count as training time; during validation the clock is paused already.
        clock = paused() if not self._random.in_validation else nullcontext()
        try:
            with clock, place(f"saving {name}"):
                on_master(lambda: self._save_here(runner, name, then, **kwargs))
        except NonFiniteWeights as error:
            runner.logger.error(f"checkpoint {name} skipped: {error}")
            return False
        finally:
            self._random.discard()
        return True

    def _save_here(self, runner: Runner, name: str, then: Callable[[], object], **kwargs: Any) -> None:
        self._writer.wait()
        self._keep_folder(runner)
        backend = dict(file_client_args=self.file_client_args, backend_args=self.backend_args)
        if not (self.background and self._local):
            runner.save_checkpoint(self.out_dir, name, **backend, **kwargs)
            then()
            return
        before = self._writer.nbytes
        with self._writer.capturing(then):
            runner.save_checkpoint(self.out_dir, name, **backend, **kwargs)
        if self._writer.nbytes > 1.1 * before:
            runner.logger.info(
                f"checkpoints are written in the background from a copy of the state in {self._writer.nbytes / 1e6:.1f}"
                " MB of host memory (default_hooks.checkpoint.background=False: training waits instead)"
            )

    def _enlist(self, runner: Runner, step: int) -> list[int]:
        """Add ``step`` to the checkpoints to keep; returns those to delete after it is saved."""
        if self.max_keep_ckpts <= 0:
            return []
        ids = [i for i in self.keep_ckpt_ids if i != step] + [step]
        self._set_kept(runner, ids[-self.max_keep_ckpts :])
        return ids[: -self.max_keep_ckpts]

    def _after_stop(self, runner: Runner, newer: str) -> list[str]:
        """The checkpoint that was written when this training was stopped; it does not count as one to keep."""
        name = runner.message_hub.get_info(_STOPPED)
        return [name] if name and name != newer and self.max_keep_ckpts > 0 else []

    def _set_kept(self, runner: Runner, ids: list[int]) -> None:
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids: deque[int] = deque(ids, self.max_keep_ckpts)
            runner.message_hub.update_info("keep_ckpt_ids", list(ids))

    def _set_last(self, runner: Runner, path: str | None) -> None:
        self.last_ckpt = path
        runner.message_hub.update_info("last_ckpt", path)

    def _remove(self, path: str) -> bool:
        if not self.file_backend.isfile(path):
            return False
        self.file_backend.remove(path)
        return True

    def _point_to_latest(self, runner: Runner, path: str, name: str) -> None:
        """Write ``last_checkpoint`` (mmengine's text file, in the work folder) and ``latest.pth``."""
        note = Path(runner.work_dir) / "last_checkpoint"
        with written(note), replacing(note, temporary_suffix()) as file:
            file.write(path.encode())
        if self._local:
            with written(Path(self.out_dir) / "latest.pth"):
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
        unit = "epoch" if self.by_epoch else "iter"

        def then() -> None:
            if old and old != new and self._remove(old):
                runner.logger.info(f"The previous best checkpoint {old} is removed")
            runner.logger.info(f"The best checkpoint with {score:0.4f} {key} at {step} {unit} is saved to {name}.")

        options = dict(save_optimizer=False, save_param_scheduler=False, by_epoch=False)
        if not self._save(runner, name, then, meta=meta, **options):
            for k in (score_key, path_key):
                hub.update_info(k, known[k]) if k in known else hub.pop_info(k)
            return False
        self._set_best_path(key, single, new)
        return True

    def _best_path(self, key: str, single: bool) -> str | None:
        return self.best_ckpt_path if single else self.best_ckpt_path_dict.get(key)

    def _set_best_path(self, key: str, single: bool, path: str) -> None:
        if single:
            self.best_ckpt_path = path
        else:
            self.best_ckpt_path_dict[key] = path
