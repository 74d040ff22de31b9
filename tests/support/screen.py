"""A real pseudo-terminal for a test, and what a person sees on it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

from .commands import ROOT, environment

COLUMNS = 100
SEQUENCE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")
PLAIN = {"CI": "", "NO_COLOR": "", "TERM": "xterm-256color", "FCOS_TRAIN_PROGRESS": "", "COLUMNS": str(COLUMNS)}


def screen(data: str) -> list[str]:
    """The lines that a terminal shows after ``data``: carriage returns, cursor up, erased lines; colours are left out.

    Another sequence than rich's bars use is an error, so that nothing passes unseen.
    """
    lines, row, column = [""], 0, 0
    for found in SEQUENCE.finditer(data):
        text, count, kind = found[0], found[1], found[2]
        if text == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif text == "\r":
            column = 0
        elif kind == "A":
            row -= int(count or 1)
        elif kind == "K":
            lines[row] = ""
        elif kind is None:
            lines[row] = lines[row].ljust(column)[:column] + text + lines[row][column + len(text) :]
            column += len(text)
        else:
            assert kind in "mhl", f"not understood here: {text!r}"
    return [line.rstrip() for line in lines]


class Pseudo:
    """The two ends of a pseudo-terminal; what is written to ``slave`` is collected."""

    def __init__(self) -> None:
        self._master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
        self._parts: list[bytes] = []
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(self._master, 1 << 16):
                self._parts.append(part)

    def end(self) -> str:
        """Close the terminal; everything that was written to it."""
        os.close(self.slave)
        self._reader.join(10)
        os.close(self._master)
        return b"".join(self._parts).decode()


@contextlib.contextmanager
def on_terminal(monkeypatch) -> Iterator[list[str]]:
    """stdout and stderr of this process are a terminal; the list holds all that was written, at the end."""
    for name, value in PLAIN.items():
        monkeypatch.setenv(name, value)
    found: list[str] = []
    pseudo = Pseudo()
    with (
        os.fdopen(pseudo.slave, "w", closefd=False) as stream,
        contextlib.redirect_stdout(stream),
        contextlib.redirect_stderr(stream),
    ):
        yield found
    found.append(pseudo.end())


def run_on_terminal(*args, cwd: Path = ROOT, **env: str) -> tuple[int, str]:
    """``fcos-train ARGS`` on a terminal: exit status, and all that was written."""
    pseudo = Pseudo()
    done = subprocess.run(
        [sys.executable, "-m", "fcos_train", *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=pseudo.slave,
        stderr=pseudo.slave,
        cwd=cwd,
        env=environment(**{**PLAIN, **env}),
        timeout=300,
    )
    return done.returncode, pseudo.end()
