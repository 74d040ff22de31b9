"""The exceptions for faults that the user can correct and for ranks that cannot go on; torchrun's file for both."""

from __future__ import annotations

import errno
import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass

# Errors of the operating system that are faults of a disk or of a mount, whatever was being written or read.
DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG, errno.ESTALE)


class UserError(Exception):
    """A fault in what the user gave: the message says what is wrong, where, and what to do.

    Command-line programs print the message alone (no traceback) and exit with status 2.

    Args:
        message: names settings (``load_from``), not the flags of one program, which its users may not have.
        setting: the setting that the message tells the user to change; a program with a flag for it may add the flag.
    """

    def __init__(self, message: str = "", setting: str | None = None) -> None:
        super().__init__(message)
        self.setting = setting


@dataclass(frozen=True)
class Advice:
    """What the user can do about a file that was refused.

    Attributes:
        text: one or more sentences.
        setting: as in :class:`UserError`.
    """

    text: str
    setting: str | None = None

    def error(self, message: str) -> UserError:
        """The error to raise: ``message``, a sentence without its full stop, then the advice."""
        return UserError(f"{message}. {self.text}", self.setting)


def system_error(error: OSError) -> UserError:
    """An error of the operating system as one line: its text, and the file where it names one."""
    text = error.strerror or str(error) or type(error).__name__
    return UserError(text if error.filename is None else f"{error.filename}: {text}")


class Stalled(RuntimeError):
    """The ranks cannot go on together: one of them does not move, has failed, or cannot be reached."""


def tell_torchrun(text: str) -> None:
    """Leave the cause of a rank's end for torchrun's summary, in the file and form that it reads; the first counts."""
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file and not os.path.exists(file):
        extra = {"py_callstack": text, "timestamp": str(int(time.time()))}
        with suppress(OSError), open(file, "w", encoding="utf-8") as target:
            json.dump({"message": {"message": text, "extraInfo": extra}}, target)
