"""When a bar is shown, and what it leaves on a terminal, in a file and in a pipe."""

import io
import os
import sys
import time

import pytest

from fcos_train import progress
from mmcv_overrides.errors import UserError
from tests.support.screen import PLAIN, on_terminal, screen


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.setattr(progress, "_chosen", None)
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in PLAIN.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("flag", "terminal", "environment", "shown"),
    [
        (None, True, {}, True),
        (None, False, {}, False),
        (None, False, {"FORCE_COLOR": "1"}, False),  # rich alone would take the pipe for a terminal
        (None, True, {"TERM": "dumb"}, False),
        (None, True, {"CI": "true"}, False),
        (None, True, {"CI": "false"}, True),
        (None, True, {"NO_COLOR": "1"}, True),  # of one colour
        (None, True, {"RANK": "1"}, False),
        (None, True, {"RANK": "0"}, True),
        (None, True, {"SLURM_PROCID": "3"}, False),
        ("lines", True, {}, False),
        ("bar", False, {}, True),
        ("bar", True, {"CI": "true", "TERM": "dumb"}, True),
        ("bar", True, {"RANK": "1"}, False),
        (None, True, {"FCOS_TRAIN_PROGRESS": "lines"}, False),
        (None, False, {"FCOS_TRAIN_PROGRESS": "bar"}, True),
        ("auto", False, {"FCOS_TRAIN_PROGRESS": "bar"}, False),  # a flag that is given takes precedence
    ],
)
def test_when_a_bar_is_shown(monkeypatch, flag, terminal, environment, shown):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    progress.choose(flag)
    assert progress.shows(Stream(terminal)) is shown


def test_another_value_of_the_variable_is_refused(monkeypatch):
    monkeypatch.setenv("FCOS_TRAIN_PROGRESS", "fancy")
    with pytest.raises(UserError, match="FCOS_TRAIN_PROGRESS=fancy: choose from auto, bar, lines"):
        progress.choose(None)


def test_in_a_pipe_there_is_nothing(monkeypatch):
    monkeypatch.setattr(progress, "DELAY", 0.0)
    stream = Stream(False)
    monkeypatch.setattr(sys, "stderr", stream)
    assert list(progress.track(range(3), "counting")) == [0, 1, 2]
    with progress.working("waiting"):
        time.sleep(0.05)
    assert stream.getvalue() == ""


def test_where_another_program_reads_stdout_there_is_no_bar(monkeypatch):
    """Its output, as that of ``tee``, is on the same terminal."""
    monkeypatch.setattr(progress, "DELAY", 0.0)
    reading, writing = os.pipe()
    with on_terminal(monkeypatch) as found, os.fdopen(writing, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        for _ in progress.track(range(3), "counting"):
            time.sleep(0.05)
    os.close(reading)
    assert found == [""]


def test_bar_of_a_loop_and_lines_printed_meanwhile(monkeypatch):
    """The bar is below the lines, shows the last step, and is gone at the end; an inner loop has none."""
    monkeypatch.setattr(progress, "DELAY", 0.0)
    with on_terminal(monkeypatch) as found:
        for number in progress.track(iter("abc"), "counting", 3):
            time.sleep(0.15)
            print(f"line {number}")
            print("warning", number, file=sys.stderr)
            list(progress.track(range(2), "inner"))
    assert [line for line in screen(found[0]) if line] == [f"{w} {n}" for n in "abc" for w in ("line", "warning")]
    assert "counting" in found[0] and "2/3" in found[0] and "inner" not in found[0]


@pytest.mark.parametrize("colour", ["", "1"])
def test_no_color(monkeypatch, colour):
    monkeypatch.setattr(progress, "DELAY", 0.0)
    with on_terminal(monkeypatch) as found:
        monkeypatch.setenv("NO_COLOR", colour)
        for _ in progress.track(range(3), "counting"):
            time.sleep(0.05)
    assert "counting" in found[0] and ("\x1b[38;5;" in found[0]) is (not colour)


def test_short_work_and_an_error_leave_nothing(monkeypatch):
    with on_terminal(monkeypatch) as found:
        list(progress.track(range(5), "counting"))
    assert found == [""]
    monkeypatch.setattr(progress, "DELAY", 0.0)
    with on_terminal(monkeypatch) as found, pytest.raises(ValueError, match="no"), progress.working("failing"):
        time.sleep(0.15)
        raise ValueError("no")
    assert "failing" in found[0] and found[0].endswith("\x1b[2K") and not any(screen(found[0]))
    assert "\x1b[?25h" in found[0]  # the cursor is visible again
    with on_terminal(monkeypatch) as found:  # and the next bar is not taken for an inner one
        for _ in progress.track(range(2), "again"):
            time.sleep(0.05)
    assert "again" in found[0]
