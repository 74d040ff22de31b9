"""Writes checkpoints so that a crash, a full disk or a kill never destroys an existing file."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from mmcv_overrides.checkpoint.plain import plain
from mmcv_overrides.errors import UserError
from mmcv_overrides.files import replacing

TEMP_SUFFIX = ".saving"
_run = "alone"


def name_run(run: str) -> None:
    """Set the run that owns the temporary files of this process from now on (see :func:`remove_leftovers`)."""
    global _run
    _run = run


def temporary_suffix() -> str:
    """End of the name of the temporary files that this process writes."""
    return f".{_run}{TEMP_SUFFIX}"


class NonFiniteWeights(UserError):
    """The weights to be saved contain inf or nan; nothing was written."""


def save(state: Mapping, path: str | os.PathLike) -> None:
    """Write a checkpoint that ``torch.load(weights_only=True)`` reads, atomically.

    The file appears under its name only when it is complete and on the disk; after any failure the old file is
    unchanged and no other file remains. The content is made plain first (see :mod:`.plain`).

    Args:
        state: the checkpoint, or a bare state dict.
        path: the file; missing folders are created.

    Raises:
        NonFiniteWeights: a floating-point tensor of a state dict contains inf or nan.
        UserError: something has no plain form, or the file cannot be written (disk full, not permitted).
    """
    check_finite(state)
    content = plain(state)
    write(content, prepare(content, path))


def prepare(content: Any, path: str | os.PathLike) -> Path:
    """Make the folder of a checkpoint, and compare the size of its content with the free space.

    Args:
        content: a plain tree.

    Returns:
        the file.

    Raises:
        UserError: it cannot be written there.
    """
    path = Path(path).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_space(content, path)
    except OSError as error:
        raise _write_error(content, path, error) from error
    return path


def write(content: Any, path: Path) -> None:
    """Write a plain tree, as :func:`save` does.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, temporary_suffix()) as file:
            _torch_save(content, file)
    except OSError as error:
        raise _write_error(content, path, error) from error


def check_finite(state: Mapping) -> None:
    """Raise :class:`NonFiniteWeights` if a state dict in ``state``, or ``state`` itself, is not finite."""
    dicts = {k: v for k, v in state.items() if str(k).endswith("state_dict") and isinstance(v, Mapping)}
    bad = [name for d in (dicts.values() if dicts else [state]) for name, t in d.items() if not is_finite(t)]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise NonFiniteWeights(
            f"the weights are not finite (inf or nan in {', '.join(map(str, bad[:3]))}{more}); not saved. "
            "Resume from the last good checkpoint with a lower learning rate, or with loss scaling"
        )


def is_finite(tensor: Any) -> bool:
    """Whether a tensor has neither inf nor nan; True for what is no tensor, or none of floating-point numbers."""
    if not isinstance(tensor, torch.Tensor) or not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    if tensor.is_floating_point() and tensor.element_size() == 1:  # float8 has no isfinite
        tensor = tensor.float()
    # Any inf or nan makes the sum inf or nan, which takes a tenth of the time; an overflow of the sum does so too.
    return bool(torch.isfinite(_sum(tensor))) or bool(torch.isfinite(tensor).all())


def _sum(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.sum(dtype=torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else None)


def _torch_save(content: Any, file: BinaryIO) -> None:
    """``torch.save`` that raises the first error of the operating system instead of torch's own."""
    writer = _Writer(file)
    try:
        torch.save(content, cast(IO[bytes], writer))  # it needs write and flush only
    except Exception as error:
        if writer.error is not None and not isinstance(error, OSError):
            raise writer.error from error
        raise


class _Writer:
    """The file that torch.save writes to; it keeps the operating system's error, which torch's message hides."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write bytes; remember the first error."""
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()


def remove_leftovers(folder: Path, runs: Iterable[str]) -> list[str]:
    """Delete the temporary files of ``runs`` (ids), which were killed while saving; returns the names of the files."""
    found = sorted(temp for run in set(runs) for temp in Path(folder).glob(f".*.{run}{TEMP_SUFFIX}"))
    for temp in found:
        with suppress(OSError):
            temp.unlink()
    return [temp.name for temp in found]


def _size(content: Any) -> int:
    """Bytes of all tensors of a plain tree; shared storage counts once."""
    storages: dict[int, int] = {}
    stack = [content]
    while stack:
        item = stack.pop()
        if isinstance(item, torch.Tensor):
            if item.layout is torch.strided:
                storages[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
        elif isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, (list, tuple)):
            stack.extend(item)
    return sum(storages.values())


def _check_space(content: Any, path: Path) -> None:
    """Fail before writing if the disk is too full; some network disks report 0 bytes, which is ignored."""
    free = shutil.disk_usage(path.parent).free
    if 0 < free < _size(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _write_error(content: Any, path: Path, error: OSError) -> UserError:
    text, setting = f"cannot write checkpoint {path}: {error.strerror or error}", None
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = 0
        with suppress(OSError):
            free = shutil.disk_usage(path.parent).free
        text += f" (needs {_size(content) / 1e6:.1f} MB, {free / 1e6:.1f} MB free). "
        text += "Free some space, save less often, or keep fewer checkpoints"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        text, setting = f"{text}. Choose a work_dir that you may write to", "work_dir"
    return UserError(f"{text}; earlier checkpoints are intact", setting)
