"""Which folder a run writes into. One rule: a run owns its folder.

A new training never writes into the folder of another run: it takes ``<work dir>-2`` (``-3``, ...), unless ``--resume``
continues that run or ``--overwrite`` replaces it. Evaluations write into a folder of their own, ``eval`` beside the
checkpoint. A folder is locked while a process writes into it (:mod:`mmcv_overrides.run_folder`).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.runner import Runner

from fcos_train.config.endurance import IF_ANY
from mmcv_overrides import run_folder
from mmcv_overrides.errors import UserError
from mmcv_overrides.parallel import on_master

CHECKPOINTS = ("epoch_*.pth", "iter_*.pth", "best_*.pth", "latest.pth", "last_checkpoint")
# What else a run leaves in its folder, relative to it; "eval" holds evaluations of its checkpoints.
LEFT = (run_folder.RECORD, "nonfinite_*.json", "detections.*.json", "scalars.json", ".*.saving", "report")
# of TensorBoard and of the local backend of mmengine, which names a file after the start of the run
CURVES = ("events.out.tfevents.*", "scalars.json", "????????_??????.json")
TIMED = re.compile(r"\d{8}_\d{6}(\.log|\.log\.json)?")


def claim(wanted: Path, given: bool, resume: str | None, overwrite: bool) -> tuple[Path, list[str]]:
    """Lock the folder for a training.

    Args:
        wanted: the work dir that was asked for. given: it was, so it is not the default of the config.
        resume: ``auto``, ``if-any``, a checkpoint, or None for a new training.
        overwrite: a new training may replace the run in ``wanted`` (see :class:`ReplaceRunHook`).

    Returns:
        the folder, held until :func:`mmcv_overrides.run_folder.release`, and lines for the log.

    Raises:
        UserError: the folder cannot be written, or the run to be continued or replaced is still going on.
    """
    wanted = wanted.absolute()
    if resume == "auto":
        return _continue(wanted if given else _latest(wanted), wanted)
    if resume == IF_ANY:
        folder = wanted if given else _latest(wanted)
        return _continue(folder, wanted) if used(folder) else _new(wanted)
    if resume is not None:
        folder = Path(resume).resolve().parent
        if folder in [path.resolve() for path in _existing(wanted)]:
            return _continue(folder, wanted)
    if overwrite:
        _hold(wanted)
        return wanted, [f"work dir: {wanted}" + (" (--overwrite: the run in it is replaced)" if used(wanted) else "")]
    return _new(wanted)


def claim_again(folder: Path) -> tuple[Path, list[str]]:
    """Lock the folder that an earlier start of the same job has claimed, for a training after a restart.

    Raises:
        UserError: the folder cannot be written, or another run has taken it.
    """
    _hold(folder)
    return folder, [f"work dir: {folder} (restarted)"]


def claim_evaluation(wanted: Path) -> tuple[Path, list[str]]:
    """Lock a folder for the results of an evaluation: ``wanted``, or ``eval`` within it where it holds a training.

    Raises:
        UserError: the folder cannot be written.
    """
    wanted = wanted.absolute()
    if used(wanted):
        wanted = wanted / "eval"
    for path in _family(wanted):
        try:
            _hold(path)
        except run_folder.Occupied:
            continue
        return path, [f"work dir: {path}" + ("" if path == wanted else f" ({wanted} is in use)")]
    raise AssertionError("the family has no end")


def used(folder: Path) -> bool:
    """Whether a training has left something in the folder."""
    if (folder / run_folder.RECORD).exists():
        return True
    return any(True for pattern in CHECKPOINTS for _ in folder.glob(pattern))


def stale_files(folder: Path, load_from: str | None) -> list[Path]:
    """What an earlier run left in ``folder``: checkpoints, logs, curves and evaluations; nothing else.

    Raises:
        UserError: ``load_from``, which the new training starts from, is in the folder.
    """
    if load_from is not None and "://" not in load_from and Path(load_from).resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"--overwrite would remove {load_from}, which this training starts from; give another --work-dir"
        )
    found = [
        path for place in (folder, folder / "eval") for pattern in (*CHECKPOINTS, *LEFT) for path in place.glob(pattern)
    ]
    found += [path for place in (folder, folder / "eval") for path in place.glob("*") if TIMED.fullmatch(path.name)]
    return found + [path for pattern in CURVES for path in (folder / "tb").rglob(pattern)]


class ReplaceRunHook(Hook):
    """Removes an earlier run at the last moment: when everything of the new one is built and its weights are loaded."""

    priority = "VERY_HIGH"

    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def before_train(self, runner: Runner) -> None:
        """Remove the files, on the first rank."""
        on_master(self._remove)

    def _remove(self) -> None:
        for path in self.files:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _hold(folder: Path) -> None:
    if not run_folder.hold(folder):
        raise run_folder.Occupied(f"work dir {folder} is in use by another run of this process")


def _continue(folder: Path, wanted: Path) -> tuple[Path, list[str]]:
    _hold(folder)
    newer = [path for path in _existing(wanted) if _age(path) > _age(folder)]
    notes = [f"work dir: {folder}"]
    if newer:
        latest = max(newer, key=_age)
        notes.append(f"{latest} holds a newer run than {folder}; --work-dir {latest} --resume would continue that one")
    return folder, notes


def _new(wanted: Path) -> tuple[Path, list[str]]:
    reasons: list[str] = []
    for path in _family(wanted):
        try:
            _hold(path)
        except run_folder.Occupied as error:
            reasons.append(str(error))
            continue
        if not used(path):
            break
        run_folder.release(path)
        reasons.append(f"{path} holds an earlier run")
    notes = [f"work dir: {path}"]
    if reasons:
        notes.append(f"not {wanted}: {'; '.join(reasons)}. --resume continues a run, --overwrite replaces it")
    return path, notes


def _family(wanted: Path) -> Iterator[Path]:
    """``wanted`` and the names that later runs take, without end."""
    yield wanted
    for number in count(2):
        yield wanted.with_name(f"{wanted.name}-{number}")


def _existing(wanted: Path) -> list[Path]:
    """The folders of this family that hold a run."""
    name = re.compile(re.escape(wanted.name) + r"(-\d+)?")
    return [path for path in sorted(wanted.parent.glob("*")) if name.fullmatch(path.name) and used(path)]


def _latest(wanted: Path) -> Path:
    """The folder of the family whose run was started last."""
    return max(_existing(wanted), key=_age, default=wanted)


def _age(folder: Path) -> str:
    """Start of the run in a folder, as text that sorts; runs of versions that did not record it sort first."""
    record = run_folder.read_record(folder)
    return record.started if record is not None else ""
